"""Features on disk as they come, so that a long evaluation goes on where it was killed.

A folder per set of images and extractor, named by the hash of what its features depend on; in it one safetensors file
for each piece of the set, whole or not there, named by the piece's first image:

    KEPT/3f9a…/passport.json
    KEPT/3f9a…/features-00000128.safetensors    features [B, F], digests [B, 32], shapes [B, 3], a checksum

Several ranks share the folder, each with pieces of its own; any number of them takes up what any other has left.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hdit_core.checkpoint.safetensors_file import read_tensors, write_tensors
from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.evaluate.extractors.extractor import Extractor, Say
from hdit_core.evaluate.feature_batch import FeatureBatch
from hdit_core.files import atomic_file, remove_temporaries, write_atomic

FILE_PATTERN = "features-{:08d}.safetensors"
FILE_NAME = re.compile(r"features-(\d{8,})\.safetensors")


class FeatureCache:
    """The features of one set by one extractor."""

    def __init__(
        self, folder: Path, images: ImageSet, extractor: Extractor, say: Say = lambda _: None, leads: bool = True
    ) -> None:
        """Open or begin.

        Args:
            folder: holds a folder for each set; made where it is missing.
            images: the set.
            extractor: the feature network.
            say: told of what is found, and of a damaged file, whose images are done again.
            leads: whether this is the rank that says what the folder is for.

        Raises:
            UsageError: the set is a stream, which cannot be recognised, or `folder` is a file.
        """
        if not images.identity:
            raise UsageError(
                f"--keep-features {folder}: a stream cannot be recognised; give a file or folder of images"
            )
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--keep-features {folder}: is a file; expected a folder")
        passport = {"extractor": extractor.provenance, "identity": images.identity}
        key = hashlib.sha256(json.dumps(passport, sort_keys=True).encode()).hexdigest()
        self._folder, self._say, self._num_features = folder / key[:16], say, extractor.num_features
        self._folder.mkdir(parents=True, exist_ok=True)
        if leads:
            content = json.dumps(passport | {"source": images.source}, indent=1) + "\n"
            write_atomic(self._folder / "passport.json", content)
        found = map(FILE_NAME.fullmatch, (path.name for path in self._folder.iterdir()))
        self._there = {int(match[1]) for match in found if match}
        if self._there and leads:
            say(f"going on: the features of {len(self._there):,} pieces of the set are in {self._folder}")

    def has(self, piece: range) -> bool:
        """Return whether the file of a piece was there in the beginning, intact or not."""
        return piece.start in self._there

    def get(self, piece: range) -> FeatureBatch | None:
        """Return the features of a piece; None where they have to be made: missing, damaged, or of fewer images."""
        path = self._path(piece)
        if not path.exists():
            return None
        try:
            batch = _unpack(path, self._num_features)
        except CheckpointError as problem:
            self._say(f"{problem}; its images are done again")
            return None
        return batch.first(len(piece)) if len(batch) >= len(piece) else None

    def put(self, piece: range, batch: FeatureBatch) -> None:
        """Write the features of a piece, whole or not at all."""
        path = self._path(piece)
        remove_temporaries(self._folder, path.name)  # of a killed writer; each piece has one writer at a time
        with atomic_file(path) as temporary:
            write_tensors(temporary, _pack(batch), "")

    def _path(self, piece: range) -> Path:
        return self._folder / FILE_PATTERN.format(piece.start)


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
