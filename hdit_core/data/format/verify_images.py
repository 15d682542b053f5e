"""Verifies every image of a shard: tar, index, label and hashes have to agree."""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from hdit_core.data.format.duplicates import image_hashes
from hdit_core.data.format.manifest import Contents
from hdit_core.data.format.shard import (
    CAPTION_SUFFIX,
    HASHES_DTYPE,
    NO_LABEL,
    ShardSample,
    condition_suffix,
    read_shard,
)
from hdit_core.data.image.arrays.picture import Picture, as_picture
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.image.codec import SUFFIXES, decode
from hdit_core.files import naming

MOST_PROBLEMS = 20  # per shard; a shard that is shifted by a byte has one for every image

Rows = Shaped[np.ndarray, " _"]


def _pixels_problem(pictures: Sequence[Picture], about: dict[str, str], hashes: Rows) -> str | None:
    sha256s = [about["sha256"], *([about["condition_sha256"]] if len(pictures) > 1 else [])]
    actual = np.frombuffer(image_hashes(sha256s, pictures), HASHES_DTYPE)
    if (actual["source"] != hashes["source"]).any():
        return "the hash of its original file is not that in hashes.npy"
    return "the hash of its pixels is not that in hashes.npy" if (actual["pixels"] != hashes["pixels"]).any() else None


@dataclass(frozen=True)
class ShardRows:
    """The rows of the images of a shard."""

    index: Rows
    hashes: Rows | None  # None if the data set has none
    condition: Rows | None  # the index of the condition images; None if the data set has none

    def of(self, number: int) -> "ShardRows":
        """Return the rows of one image."""
        row = slice(number, number + 1)
        hashes, condition = (None if rows is None else rows[row] for rows in (self.hashes, self.condition))
        return ShardRows(self.index[row], hashes, condition)


class _Shard:
    """An open shard, and the description of its images in the manifest."""

    def __init__(self, descriptor: int, contents: Contents, size: tuple[int, int]) -> None:
        self.descriptor, self.contents, self.size = descriptor, contents, size

    def _label_problem(self, stored: ShardSample, label: int) -> str | None:
        text = stored.read_text(self.descriptor, "cls").decode() if "cls" in stored.members else str(NO_LABEL)
        return None if text == str(label) else f"class {text[:20]!r} in the tar, {label} in the index"

    def _picture(self, stored: ShardSample, suffix: str, row: Rows, codec: str, pixels: PixelFormat) -> Picture | str:
        """Return a picture of a sample, or an error message."""
        offset, length = int(row["offset"][0]), int(row["length"][0])
        if stored.members[suffix] != (offset, length):
            return "is not at the position in the index"
        content = stored.read(self.descriptor, suffix)
        if zlib.crc32(content) != row["crc32"][0]:
            return "does not have the checksum of the index"
        return as_picture(decode(content, codec, (*self.size, pixels.channels), pixels.dtype), pixels)

    def _pictures(self, stored: ShardSample, rows: ShardRows) -> list[Picture] | str:
        """Return the image and its condition image, if any, or an error message."""
        contents, condition = self.contents, self.contents.condition
        image = self._picture(stored, SUFFIXES[contents.codec], rows.index, contents.codec, contents.pixels)
        if isinstance(image, str) or condition is None or rows.condition is None:
            return image if isinstance(image, str) else [image]
        suffix = condition_suffix(SUFFIXES[condition.codec])
        picture = self._picture(stored, suffix, rows.condition, condition.codec, condition.pixels)
        return f"its condition image {picture}" if isinstance(picture, str) else [image, picture]

    def problem(self, stored: ShardSample, rows: ShardRows) -> str | None:
        """Return an error message for one image, or None.

        Raises:
            ValueError, KeyError, TypeError, RecursionError: its image, .json, .cls or .txt is damaged.
        """
        pictures = self._pictures(stored, rows)
        if isinstance(pictures, str):
            return pictures
        about = stored.read_json(self.descriptor)
        if CAPTION_SUFFIX in stored.members:
            stored.read_text(self.descriptor, CAPTION_SUFFIX).decode()
        if problem := self._label_problem(stored, int(rows.index["label"][0])):
            return problem
        lossless = self.contents.codec != "jpeg"  # the hashes are of the pixels before encoding
        complete = (rows.condition is None) == (self.contents.condition is None)  # else that is another defect
        known = rows.hashes if lossless and complete else None
        return None if known is None else _pixels_problem(pictures, about, known)


def _size_of(contents: Contents, first: int) -> tuple[int, int]:
    """Return the height and width of the images of the shard that begins with this image."""
    for bucket in contents.sizes:
        if first < bucket.samples:
            return bucket.height, bucket.width
        first -= bucket.samples
    raise AssertionError(first)


def _each_problem(path: Path, shard: _Shard, first: int, rows: ShardRows) -> Iterator[str]:
    try:
        stored = read_shard(path)
    except (tarfile.TarError, OSError, ValueError) as error:
        yield f"not an intact tar ({error})"
        return
    if len(stored) != len(rows.index):
        yield f"holds {len(stored):,} samples, the index {len(rows.index):,}"
    for number, sample in enumerate(stored[: len(rows.index)]):
        try:
            problem = shard.problem(sample, rows.of(number))
        except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
            problem = f"damaged ({error})"
        if problem:
            yield f"image {first + number} ({sample.key}) at byte {rows.index['offset'][number]:,}: {problem}"


def image_problems(path: Path, contents: Contents, first: int, rows: ShardRows) -> list[str]:
    """Return error messages for the images of a shard: at most MOST_PROBLEMS, then the number of others.

    Args:
        first: index of its first image in the data set.
    """
    with naming(path), path.open("rb") as file:
        shard = _Shard(file.fileno(), contents, _size_of(contents, first))
        problems = list(_each_problem(path, shard, first, rows))
    more = [f"and {len(problems) - MOST_PROBLEMS:,} more"] if len(problems) > MOST_PROBLEMS else []
    return problems[:MOST_PROBLEMS] + more
