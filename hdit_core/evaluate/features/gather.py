"""Features of all ranks come to the main one, a piece at a time and in the order of the images.

The main rank adds them up as one process would, so that every number is the same, bit for bit, for any number of ranks.
Features travel rather than sums: those of 50,000 images are 410 MB in the course of an evaluation, while the sums of
every single rank, ten blocks of 2048 x 2048 doubles, are 336 MB at once. No rank holds more than a few pieces.
"""

import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, distributed

from hdit_core.distributed import World
from hdit_core.errors import HditError
from hdit_core.evaluate.feature_batch import FeatureBatch

PATIENCE = timedelta(days=2)  # a piece may take hours; a rank that died is noticed at once, by its closed connection
MOST_UNDERWAY = 4  # pieces that a rank may be ahead of the main one
FAILED, DONE = -1, 0  # in place of a piece's number of images
DIGEST_BYTES, SHAPE_BYTES = 32, 24

OF_CONNECTIONS = re.compile(r"gloo|NCCL|TCPStore", re.IGNORECASE)
PLACE_IN_SOURCE = re.compile(r"\[/\S*\] ")


class RankFailed(HditError):
    """A rank cannot go on with its share, and says why by itself."""


@contextmanager
def translating_rank_errors(who: str) -> Iterator[None]:
    """Turn a connection to other ranks that breaks in the body into a line for people.

    Args:
        who: whom the body speaks with.

    Raises:
        HditError: they are gone.
    """
    try:
        yield
    except RuntimeError as problem:
        if not isinstance(problem, distributed.DistError) and not OF_CONNECTIONS.search(str(problem)):
            raise
        first = next(iter(str(problem).splitlines()), "")
        reason = PLACE_IN_SOURCE.sub("", first).split(". ")[0]
        raise HditError(f"{who} is gone ({reason}); start all ranks again") from None


class FeatureGather:
    """The way from every rank to the main one; all ranks make it at the same time."""

    def __init__(self, world: World, num_features: int) -> None:
        self.world, self.num_features = world, num_features
        self._image_bytes = 4 * num_features + DIGEST_BYTES + SHAPE_BYTES
        # of its own and over the hosts' memory: the features are there, and the GPUs' group may wait for something else
        self._ended: set[int] = set()  # ranks from which nothing more comes of this set of images
        self._group: Any = distributed.new_group(backend="gloo", timeout=PATIENCE) if world.size > 1 else None

    def send_all(self, pieces: Iterator[FeatureBatch]) -> None:
        """Send this rank's pieces to the main one as they come; where one cannot be made, tell it so.

        Raises:
            HditError: the main rank is gone.
        """
        underway: deque[list[tuple[Any, Tensor]]] = deque()
        try:
            for piece in pieces:
                underway.append(self._send(len(piece), _pack(piece)))
                if len(underway) > MOST_UNDERWAY:
                    self._wait(underway.popleft())
            underway.append(self._send(DONE))
        except BaseException:
            underway.append(self._send(FAILED))
            raise
        finally:
            while underway:
                self._wait(underway.popleft())

    def receive(self, rank: int) -> FeatureBatch | None:
        """Return the next piece of a rank, None when it has sent all; the main one calls this.

        Raises:
            RankFailed: that rank has failed.
            HditError: it is gone.
        """
        header = torch.zeros(1, dtype=torch.int64)
        self._receive(header, rank)
        count = int(header)
        if count in (FAILED, DONE):
            self._ended.add(rank)
        if count == FAILED:
            raise RankFailed(f"rank {rank} failed; it says why")
        if count == DONE:
            return None
        content = torch.empty(count, self._image_bytes, dtype=torch.uint8)
        self._receive(content, rank)
        return _unpack(content, self.num_features)

    def finish(self) -> None:
        """Hear of all ranks that they have done the whole of a set; the main one calls this, and the next set may come.

        Raises:
            RankFailed: one of them has failed.
            HditError: one of them is gone.
        """
        for rank in self._others():
            self.receive(rank)
        self._ended.clear()

    def drain(self) -> None:
        """Take what the other ranks still send of a set that the main one, which calls this, has given up."""
        for rank in self._others():
            with suppress(HditError):
                while self.receive(rank) is not None:
                    pass
        self._ended.clear()

    def _others(self) -> list[int]:
        return [rank for rank in range(1, self.world.size) if rank not in self._ended]

    def broadcast(self, value: float) -> float:
        """Return the main rank's number on every rank; all call this.

        Raises:
            HditError: the main rank is gone.
        """
        number = torch.tensor(value, dtype=torch.float64)
        if self.world.size > 1:
            with translating_rank_errors("another rank"):
                distributed.broadcast(number, 0, group=self._group)
        return float(number)

    def _send(self, count: int, *contents: Tensor) -> list[tuple[Any, Tensor]]:
        """Begin to send a header and what belongs to it; the tensors have to live until they are sent."""
        messages = [torch.tensor([count]), *contents]
        with translating_rank_errors("the main rank"):
            return [(distributed.isend(message, 0, group=self._group), message) for message in messages]

    def _wait(self, messages: list[tuple[Any, Tensor]]) -> None:
        with translating_rank_errors("the main rank"):
            for work, _ in messages:
                work.wait()

    def _receive(self, into: Tensor, rank: int) -> None:
        with translating_rank_errors(f"rank {rank}"):
            distributed.recv(into, rank, group=self._group)


def _pack(piece: FeatureBatch) -> UInt8[Tensor, "B S"]:
    """Return each image's features, digest and shape as a row of bytes."""
    shapes = torch.tensor(piece.shapes, dtype=torch.int64)
    digests = torch.frombuffer(bytearray(b"".join(piece.digests)), dtype=torch.uint8).reshape(-1, DIGEST_BYTES)
    return torch.cat([_bytes(piece.features.float()), digests, _bytes(shapes)], 1)


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
