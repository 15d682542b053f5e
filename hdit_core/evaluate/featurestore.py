"""Features on disk as they come, so that a long evaluation goes on where it was killed.

A folder per set of images and extractor, named by the hash of what its features depend on; in it one safetensors file
for some hundred images, each whole or not there, in the order of the images:

    KEPT/3f9a…/passport.json
    KEPT/3f9a…/features-00000000.safetensors    features [B, F], digests [B, 32], shapes [B, 3], a checksum
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from hdit_core.checkpoint.tensors import read_tensors, write_tensors
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.evaluate.extractor import Extractor, Say
from hdit_core.evaluate.imageset import ImageSet
from hdit_core.files import new_file, remove_temporaries, write_whole

IMAGES_PER_FILE = 512
FILE_PATTERN = "features-{:08d}.safetensors"


@dataclass(frozen=True)
class FeatureBatch:
    """The features of some images, with each image's digest and shape `(H, W, C)`."""

    features: Float32[Tensor, "B F"]
    digests: list[bytes]
    shapes: list[tuple[int, ...]]


class FeatureStore:
    """The features of one set by one extractor."""

    def __init__(self, folder: Path, images: ImageSet, extractor: Extractor, say: Say = lambda _: None) -> None:
        """Open or begin.

        Args:
            folder: holds a folder for each set; made where it is missing.
            images: the set.
            extractor: the feature network.
            say: told of what is found, and of a damaged file, whose images are done again.

        Raises:
            UsageError: the set is a stream, which cannot be recognised, or `folder` is a file.
        """
        if not images.identity:
            raise UsageError(
                f"--keep-features {folder}: a stream cannot be recognised; give a file or folder of images"
            )
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--keep-features {folder}: is a file; expected a folder")
        passport = {"extractor": extractor.passport, "identity": images.identity, "count": images.count}
        key = hashlib.sha256(json.dumps(passport, sort_keys=True).encode()).hexdigest()
        self._folder, self._say, self._num_features = folder / key[:16], say, extractor.num_features
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_temporaries(self._folder)
        write_whole(self._folder / "passport.json", json.dumps(passport | {"source": images.source}, indent=1) + "\n")
        self._count = 0
        self._waiting: list[FeatureBatch] = []

    def kept(self) -> Iterator[FeatureBatch]:
        """Yield what is there; where a file is missing or damaged, the rest is to be made again."""
        while (path := self._path()).exists():
            try:
                batch = _unpack(path, self._num_features)
            except CheckpointError as problem:
                self._say(f"{problem}; its images and those after it are done again")
                break
            self._count += len(batch.digests)
            yield batch
        if self._count:
            self._say(f"going on after {self._count:,} images, whose features are in {self._folder}")

    def keep(self, batch: FeatureBatch) -> None:
        """Add a batch; it is on the disk when some hundred images have come together."""
        self._waiting.append(batch)
        if sum(len(waiting.digests) for waiting in self._waiting) >= IMAGES_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        whole = FeatureBatch(
            torch.cat([batch.features for batch in self._waiting]),
            [digest for batch in self._waiting for digest in batch.digests],
            [shape for batch in self._waiting for shape in batch.shapes],
        )
        with new_file(self._path()) as temporary:
            write_tensors(temporary, _pack(whole), "")
        self._count += len(whole.digests)
        self._waiting = []

    def _path(self) -> Path:
        return self._folder / FILE_PATTERN.format(self._count)


def _pack(batch: FeatureBatch) -> dict[str, Tensor]:
    return {
        "features": batch.features,
        "digests": torch.frombuffer(bytearray(b"".join(batch.digests)), dtype=torch.uint8).reshape(-1, 32),
        "shapes": torch.tensor(batch.shapes, dtype=torch.int64),
    }


def _unpack(path: Path, num_features: int) -> FeatureBatch:
    tensors, metadata = read_tensors(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    count = shapes.get("digests", (0,))[0]
    expected: dict[str, Any] = {"features": (count, num_features), "digests": (count, 32), "shapes": (count, 3)}
    if shapes != expected or not count or "crc32" not in metadata:
        raise CheckpointError(f"{path}: not features as --keep-features writes them")
    return FeatureBatch(
        tensors["features"],
        [bytes(row.tolist()) for row in tensors["digests"]],
        [tuple(row) for row in tensors["shapes"].tolist()],
    )
