"""Features of all ranks on the main rank, in the order of the images.

Ranks work in rounds: in round r, rank k makes chunk r * size + k of the set, then all chunks go to the main rank. It
adds them up as a single process would, so every result is bit-identical for any number of ranks. Features are sent
rather than sums: those of 50,000 images are 410 MB in the course of an evaluation, the sums of a single rank, ten
blocks of 2048 x 2048 doubles, are 336 MB at once.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, distributed

from hdit_core.distributed import World
from hdit_core.errors import HditError
from hdit_core.evaluate.feature_batch import FeatureBatch

TIMEOUT = timedelta(days=2)  # a chunk may take hours; the connection to a dead rank closes at once
FAILED, STOPPED = -1, -2  # status words, in place of a chunk's number of images
DIGEST_BYTES, SHAPE_BYTES = 32, 24

CONNECTION_ERROR = re.compile(r"gloo|NCCL|TCPStore", re.IGNORECASE)
SOURCE_LOCATION = re.compile(r"\[/\S*\] ")


class RankFailed(HditError):
    """Another rank failed while features were extracted; that rank reports the reason."""


class MeasurementStopped(Exception):
    """Some rank was asked to stop while features were extracted. All ranks raise this."""


@contextmanager
def translating_rank_errors() -> Iterator[None]:
    """Turn a broken connection to another rank into a one-line error.

    Raises:
        HditError: another rank is gone.
    """
    try:
        yield
    except RuntimeError as problem:
        if not isinstance(problem, distributed.DistError) and not CONNECTION_ERROR.search(str(problem)):
            raise
        first = next(iter(str(problem).splitlines()), "")
        reason = SOURCE_LOCATION.sub("", first).split(". ")[0]
        raise HditError(f"another rank is gone ({reason}); start all ranks again") from None


class FeatureGather:
    """Brings the features of all ranks to the main rank; all ranks create it at the same time."""

    def __init__(self, world: World, num_features: int) -> None:
        self.world, self.num_features = world, num_features
        self._image_bytes = 4 * num_features + DIGEST_BYTES + SHAPE_BYTES
        # A group of its own in host memory: features are there, and its timeout is longer than that of other groups.
        self._group: Any = distributed.new_group(backend="gloo", timeout=TIMEOUT) if world.size > 1 else None

    @translating_rank_errors()
    def gather_round(self, make_chunk: Callable[[], FeatureBatch | None]) -> list[FeatureBatch]:
        """Make one chunk per rank; return them all on the main rank, in the order of ranks. All ranks call this.

        Args:
            make_chunk: makes this rank's chunk, None if none is left for it.

        Returns:
            The chunks that were made; on the other ranks an empty list.

        Raises:
            MeasurementStopped: a rank was asked to stop.
            RankFailed: another rank failed.
            HditError: another rank is gone.
        """
        try:
            chunk = make_chunk()
        except BaseException as problem:
            with suppress(RuntimeError):  # another rank is gone too
                self._exchange(STOPPED if isinstance(problem, MeasurementStopped) else FAILED)
            raise
        statuses = self._exchange(len(chunk) if chunk else 0)
        if FAILED in statuses:
            raise RankFailed(f"rank {statuses.index(FAILED)} failed; it reports the reason")
        if STOPPED in statuses:
            raise MeasurementStopped
        return self._gather(chunk, statuses)

    def _exchange(self, status: int) -> list[int]:
        """Return the status words of all ranks."""
        words = torch.zeros(self.world.size, dtype=torch.int64)
        distributed.all_gather_into_tensor(words, torch.tensor([status]), group=self._group)
        return words.tolist()

    def _gather(self, chunk: FeatureBatch | None, counts: list[int]) -> list[FeatureBatch]:
        content = torch.zeros(max(counts), self._image_bytes, dtype=torch.uint8)
        if chunk:
            content[: len(chunk)] = _pack(chunk)
        contents = [torch.empty_like(content) for _ in counts] if self.world.is_main else None
        distributed.gather(content, contents, 0, group=self._group)
        packed = zip(contents or [], counts, strict=False)
        return [_unpack(rows[:count], self.num_features) for rows, count in packed if count]


def _pack(chunk: FeatureBatch) -> UInt8[Tensor, "B S"]:
    """Return each image's features, digest and shape as a row of bytes."""
    shapes = torch.tensor(chunk.shapes, dtype=torch.int64)
    digests = torch.frombuffer(bytearray(b"".join(chunk.digests)), dtype=torch.uint8).reshape(-1, DIGEST_BYTES)
    return torch.cat([_bytes(chunk.features.float()), digests, _bytes(shapes)], 1)


def _bytes(rows: Tensor) -> UInt8[Tensor, "B S"]:
    return rows.contiguous().view(torch.uint8)


def _unpack(content: UInt8[Tensor, "B S"], num_features: int) -> FeatureBatch:
    features, digests, shapes = content.split([4 * num_features, DIGEST_BYTES, SHAPE_BYTES], 1)
    whole: Int64[Tensor, "B 3"] = shapes.contiguous().view(torch.int64)
    return FeatureBatch(
        features.contiguous().view(torch.float32),
        [bytes(row.tolist()) for row in digests],
        [tuple(row) for row in whole.tolist()],
    )
