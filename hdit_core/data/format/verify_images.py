"""Verifies every image of a shard: whether the tar, the index, the label and the hashes agree."""

import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from hdit_core.data.format.hashes import image_hashes
from hdit_core.data.format.manifest import Contents
from hdit_core.data.format.shard import HASHES_DTYPE, NO_LABEL, ShardSample, read_shard
from hdit_core.data.image.codec import SUFFIXES, decode

MOST_PROBLEMS = 20  # reported per shard; a shard that is shifted by a byte has one for every image

Rows = Shaped[np.ndarray, " _"]


def _pixels_problem(pixels: UInt8[np.ndarray, "H W C"], about: dict[str, str], hashes: Rows) -> str | None:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    actual = np.frombuffer(image_hashes(about["sha256"], image), HASHES_DTYPE)
    if (actual["source"] != hashes["source"]).any():
        return "the hash of its original file is not that in hashes.npy"
    return "the hash of its pixels is not that in hashes.npy" if (actual["pixels"] != hashes["pixels"]).any() else None


class _Shard:
    """An open shard and what the manifest says of its images."""

    def __init__(self, descriptor: int, contents: Contents, shape: tuple[int, int, int]) -> None:
        self.descriptor, self.contents, self.shape = descriptor, contents, shape

    def _label_problem(self, stored: ShardSample, label: int) -> str | None:
        text = stored.read_text(self.descriptor, "cls").decode() if "cls" in stored.members else str(NO_LABEL)
        return None if text == str(label) else f"class {text[:20]!r} in the tar, {label} in the index"

    def problem(self, stored: ShardSample, row: Rows, hashes: Rows | None) -> str | None:
        """Return what is wrong with one image.

        Raises:
            ValueError, KeyError, TypeError, RecursionError: its image, .json or .cls is damaged.
        """
        offset, length = int(row["offset"][0]), int(row["length"][0])
        if stored.members[SUFFIXES[self.contents.codec]] != (offset, length):
            return "is not at the position in the index"
        content = os.pread(self.descriptor, length, offset)
        if zlib.crc32(content) != row["crc32"][0]:
            return "does not have the checksum of the index"
        pixels = decode(content, self.contents.codec, self.shape)
        about = stored.read_json(self.descriptor)
        if problem := self._label_problem(stored, int(row["label"][0])):
            return problem
        lossless = self.contents.codec != "jpeg"  # the hashes are of the pixels before encoding
        return _pixels_problem(pixels, about, hashes) if hashes is not None and lossless else None


def _shape_of(contents: Contents, first: int) -> tuple[int, int, int]:
    """Return the shape of the images of the shard that begins with this image."""
    for bucket in contents.sizes:
        if first < bucket.samples:
            return bucket.height, bucket.width, contents.channels
        first -= bucket.samples
    raise AssertionError(first)


def _each_problem(path: Path, shard: _Shard, first: int, index: Rows, hashes: Rows | None) -> Iterator[str]:
    try:
        stored = read_shard(path)
    except (tarfile.TarError, OSError, ValueError) as error:
        yield f"not an intact tar ({error})"
        return
    if len(stored) != len(index):
        yield f"holds {len(stored):,} samples, the index {len(index):,}"
    for number, sample in enumerate(stored[: len(index)]):
        row = slice(number, number + 1)
        try:
            problem = shard.problem(sample, index[row], None if hashes is None else hashes[row])
        except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
            problem = f"damaged ({error})"
        if problem:
            yield f"image {first + number} ({sample.key}) at byte {index['offset'][number]:,}: {problem}"


def image_problems(path: Path, contents: Contents, first: int, index: Rows, hashes: Rows | None) -> list[str]:
    """Return what is wrong with the images of a shard: at most MOST_PROBLEMS, and the number of others.

    Args:
        path: of the shard.
        contents: of the data set.
        first: index of its first image in the data set.
        index: its rows of the index.
        hashes: its rows of the hashes, None where the data set has none.
    """
    with path.open("rb") as file:
        shard = _Shard(file.fileno(), contents, _shape_of(contents, first))
        problems = list(_each_problem(path, shard, first, index, hashes))
    more = [f"and {len(problems) - MOST_PROBLEMS:,} more"] if len(problems) > MOST_PROBLEMS else []
    return problems[:MOST_PROBLEMS] + more
