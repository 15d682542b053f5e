"""Features on disk, written as they are computed, so that a long evaluation can resume.

One folder per set of images and extractor, named by the hash of what the features depend on. In it, each chunk of the
set has one safetensors file, written atomically and named by the chunk's first image:

    CACHE/3f9a…/passport.json
    CACHE/3f9a…/features-00000128.safetensors    features [B, F], digests [B, 32], shapes [B, 3], a checksum

Several ranks share the folder, each writes its own chunks; a later evaluation uses them with any number of ranks.
"""

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hdit_core.checkpoint.safetensors_file import read_tensors, write_tensors
from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.errors import CheckpointError, UsageError, counted
from hdit_core.evaluate.extractors.extractor import Extractor
from hdit_core.evaluate.feature_batch import FeatureBatch
from hdit_core.files import atomic_file, remove_temporaries, write_atomic

FILE_PATTERN = "features-{:08d}.safetensors"
FILE_NAME = re.compile(r"features-(\d{8,})\.safetensors")

logger = logging.getLogger("hdit")


class FeatureCache:
    """The features of one set by one extractor."""

    def __init__(self, folder: Path, images: ImageSet, extractor: Extractor, is_main: bool = True) -> None:
        """Open or create the cache of a set.

        Args:
            folder: contains a folder for each set; created if missing.
            images: the set.
            extractor: the feature network.
            is_main: whether this is the main rank, which writes the folder's description.

        Raises:
            UsageError: the set is a stream, which cannot be recognized again, or `folder` is a file.
        """
        if not images.identity:
            raise UsageError(
                f"--keep-features {folder}: a stream cannot be recognized again; pass a file or folder of images"
            )
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--keep-features {folder}: is a file; expected a folder")
        passport = {"extractor": extractor.provenance, "identity": images.identity}
        key = hashlib.sha256(json.dumps(passport, sort_keys=True).encode()).hexdigest()
        self._folder, self._num_features = folder / key[:16], extractor.num_features
        self._folder.mkdir(parents=True, exist_ok=True)
        if is_main:
            content = json.dumps(passport | {"source": images.source}, indent=1) + "\n"
            write_atomic(self._folder / "passport.json", content)
        matches = map(FILE_NAME.fullmatch, (path.name for path in self._folder.iterdir()))
        self._cached = {int(match[1]) for match in matches if match}
        if self._cached and is_main:
            logger.info(f"resuming: {self._folder} has the features of {counted(len(self._cached), 'chunk')}")

    def has(self, indices: range) -> bool:
        """Return whether the file of a chunk existed at the start, valid or not."""
        return indices.start in self._cached

    def get(self, indices: range) -> FeatureBatch | None:
        """Return the features of a chunk; None if the file is missing, damaged, or has fewer images."""
        path = self._path(indices)
        if not path.exists():
            return None
        try:
            batch = _unpack(path, self._num_features)
        except CheckpointError as problem:
            logger.warning(f"{problem}; computing its features again")
            return None
        return batch.first(len(indices)) if len(batch) >= len(indices) else None

    def put(self, indices: range, batch: FeatureBatch) -> None:
        """Write the features of a chunk atomically."""
        path = self._path(indices)
        remove_temporaries(self._folder, path.name)  # of a killed writer; each chunk has one writer at a time
        with atomic_file(path) as temporary:
            write_tensors(temporary, _pack(batch), "")

    def _path(self, indices: range) -> Path:
        return self._folder / FILE_PATTERN.format(indices.start)


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
        raise CheckpointError(f"{path}: not a file of features as --keep-features writes them")
    return FeatureBatch(
        tensors["features"],
        [bytes(row.tolist()) for row in tensors["digests"]],
        [tuple(row) for row in tensors["shapes"].tolist()],
    )
