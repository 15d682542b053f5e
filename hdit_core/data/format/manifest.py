"""`manifest.json`: the contents of a prepared data set, with checksums of its files.

    manifest.json        written last: a set with a manifest is complete
    index.npy            one row per image (`shard.INDEX_DTYPE`), grouped by bucket, each in the order of the inputs
    hashes.npy           one row per image (`shard.HASHES_DTYPE`), to find duplicates
    condition.npy        only with condition images: one row per image, as in the index
    vectors.npy          only with vectors: float32, one row per image
    shard-000000.tar     ordinary webdataset tars; shard-000000-832x1216.tar if images have several sizes
    rejects.jsonl        inputs that could not be used, each with the reason

`root` identifies the set: the SHA-256 of everything that a reader sees (image format, classes, shards, index). It
is independent of the number of processes, of interruptions, and of the order in which a folder lists its files.

Version 2 has buckets: images of several sizes. Version 3 has condition images, vectors, captions, or pixels other
than 8-bit grayscale and RGB. A set without these is still written as version 1 or 2.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Shaped
from pydantic import Field, ValidationError

from hdit_core.data.format.manifest_entries import (
    Bucket,
    Channels,
    Codec,
    ConditionEntry,
    Count,
    IndexEntry,
    Range,
    Sha256,
    ShardEntry,
    Side,
    StrictModel,
    VectorsEntry,
)
from hdit_core.data.format.pixel_stats import overall_std
from hdit_core.data.format.retry_reads import retry_transient
from hdit_core.data.image.arrays.pixel_format import Dtype, PixelFormat
from hdit_core.errors import DataError
from hdit_core.files import crc32, read_json, write_atomic

MANIFEST = "manifest.json"
INDEX = "index.npy"
HASHES = "hashes.npy"
CONDITION = "condition.npy"
VECTORS = "vectors.npy"
REJECTS = "rejects.jsonl"
FORMAT_VERSION = 3
LARGEST_MANIFEST_BYTES = 1 << 28
REPAIR_HINT = "prepare or copy the data again"

ClassName = Annotated[str, Field(max_length=4096)]


class Origin(StrictModel):
    """Where the images came from; not part of the set's identity."""

    kind: str
    name: str
    inputs: Count
    fingerprint: Sha256  # of names, sizes, times and settings: if it is unchanged, there is nothing to do


class Contents(StrictModel):
    """The part of a manifest that readers use, and that identifies the data set."""

    format: Literal["hdit-data"] = "hdit-data"
    format_version: Literal[1, 2, 3] = 1
    height: Side  # with buckets, the largest of all; likewise the width
    width: Side
    channels: Channels
    codec: Codec
    samples: Annotated[int, Field(ge=1, lt=1 << 62)]
    classes: tuple[ClassName, ...] | None = Field(strict=False)
    class_counts: tuple[Count, ...] | None = Field(strict=False)
    shards: tuple[ShardEntry, ...] = Field(strict=False)
    index: IndexEntry
    buckets: tuple[Bucket, ...] = Field((), strict=False)  # sorted by height, then width; not in version 1
    dtype: Dtype = "uint8"  # this and the following fields: version 3 only
    value_range: tuple[Range, ...] = Field((), strict=False)  # mapped to [-1, 1]: one, or one per channel
    condition: ConditionEntry | None = None
    vectors: VectorsEntry | None = None
    captions: bool = False  # whether any image has one

    @property
    def pixels(self) -> PixelFormat:
        """Channels, data type and range of the images."""
        return PixelFormat(self.channels, self.dtype, self.value_range)

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all decoded images and condition images."""
        formats = [self.pixels, *([self.condition.pixels] if self.condition else [])]
        num_pixels = sum(size.samples * size.height * size.width for size in self.sizes)
        return sum(num_pixels * each.channels * each.itemsize for each in formats)

    @property
    def lowest_version(self) -> int:
        """The first format version that supports all parts of this set."""
        later = self.condition or self.vectors or self.captions or self.value_range
        return 3 if later or not self.pixels.is_8_bit_image else 2 if self.buckets else 1

    @property
    def sizes(self) -> tuple[Bucket, ...]:
        """The sizes of the images in the order of the index; a single one without buckets."""
        return self.buckets or (Bucket(height=self.height, width=self.width, samples=self.samples),)


class Manifest(StrictModel):
    """A prepared data set."""

    contents: Contents
    root: Sha256
    origin: Origin
    settings: dict[str, str | int]
    rejects: Count
    remarks: dict[str, Count]  # number of images per remark
    made_with: dict[str, str]
    hashes: IndexEntry | None = None  # None in sets of early versions
    pixel_mean: tuple[float, ...] = Field((), strict=False)  # per channel, of pixels in [-1, 1]; empty: unknown
    pixel_std: tuple[float, ...] = Field((), strict=False)


def sigma_data(manifest: Manifest) -> float | None:
    """Return the standard deviation of the pixels over all channels, in [-1, 1]; None for sets of early versions."""
    return overall_std(manifest.pixel_mean, manifest.pixel_std) if manifest.pixel_mean else None


def _sha256(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def root_of(contents: Contents) -> str:
    """Return the identity of a data set."""
    return _sha256(contents.model_dump(mode="json"))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, which marks the set as complete."""
    document = manifest.model_dump(mode="json")
    document["checksum"] = _sha256(document)
    write_atomic(folder / MANIFEST, json.dumps(document, indent=1) + "\n")


def _load_document(path: Path) -> dict[str, Any]:
    """Read the JSON of a manifest of any origin."""
    try:
        return retry_transient(path, lambda: read_json(path, LARGEST_MANIFEST_BYTES))
    except FileNotFoundError:
        raise DataError(f"{path}: not found; expected a finished data set of `hdit prepare-data`") from None
    except OSError as problem:
        raise DataError(f"{path}: cannot be read ({problem.strerror}); {REPAIR_HINT}") from None
    except ValueError as problem:
        raise DataError(f"{path}: damaged: {problem}; {REPAIR_HINT}") from None


def _contradiction(contents: Contents) -> str | None:
    """Return the inconsistency in a manifest, or None."""
    if sum(shard.samples for shard in contents.shards) != contents.samples:
        return f"its shards do not add up to {contents.samples:,} samples"
    if len(contents.classes or ()) != len(contents.class_counts or ()):
        return "the number of classes differs from the number of class counts"
    if contents.format_version != contents.lowest_version:
        return f"format version {contents.format_version} does not fit its parts, which need {contents.lowest_version}"
    if problem := _pixels_problem(contents):
        return problem
    if sum(bucket.samples for bucket in contents.sizes) != contents.samples:
        return f"its buckets do not add up to {contents.samples:,} samples"
    sizes = [(bucket.height, bucket.width) for bucket in contents.sizes]
    if sizes != sorted(set(sizes)) or (contents.height, contents.width) != tuple(map(max, zip(*sizes, strict=True))):
        return "its buckets are out of order, or do not have the stated largest size"
    return None


def _pixels_problem(contents: Contents) -> str | None:
    """Return the inconsistency in the formats of the images and condition images, or None."""
    parts: dict[str, Contents | ConditionEntry] = {"images": contents}
    if contents.condition:
        parts["condition images"] = contents.condition
    for what, part in parts.items():
        if problem := part.pixels.problem():
            return f"{what} of {problem}"
        if (part.codec == "npy") == part.pixels.is_8_bit_image:
            return f"{what} of {part.channels} channels and type {part.dtype} are not stored as {part.codec}"
    return None


def _check_consistency(path: Path, manifest: Manifest, document: dict[str, Any], checksum: object) -> None:
    if checksum != _sha256(document) or manifest.root != _sha256(document["contents"]):
        raise DataError(f"{path}: changed since it was written, its checksum does not match; {REPAIR_HINT}")
    if problem := _contradiction(manifest.contents):
        raise DataError(f"{path}: {problem}; {REPAIR_HINT}")


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a data set.

    Raises:
        DataError: it is missing or damaged, or a newer version of hdit wrote it.
    """
    path = folder / MANIFEST
    document = _load_document(path)
    checksum = document.pop("checksum", None)
    contents = document.get("contents")
    version = contents.get("format_version") if isinstance(contents, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise DataError(f"{path}: has format version {version}, this hdit reads up to {FORMAT_VERSION}; update hdit")
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: damaged at {key}: {first['msg']}; {REPAIR_HINT}") from None
    _check_consistency(path, manifest, document, checksum)
    return manifest


def size_problem(path: Path, expected_bytes: int) -> tuple[int, str | None]:
    """Return the size of a file in bytes, and an error message if it is wrong."""
    try:
        size_bytes = retry_transient(path, path.stat).st_size
    except OSError as problem:
        return 0, f"cannot be read ({problem.strerror})"
    if size_bytes == expected_bytes:
        return size_bytes, None
    return size_bytes, f"has {size_bytes:,} bytes, the manifest says {expected_bytes:,}: truncated or altered"


def load_rows(
    folder: Path, name: str, entry: IndexEntry, dtype: np.dtype, samples: int, *row_shape: int
) -> Shaped[np.ndarray, "_ ..."]:
    """Map a file with one row per image into memory, after checking it against the manifest.

    Args:
        entry: the file's entry in the manifest.
        row_shape: shape of a row; none if a row is one element.

    Raises:
        DataError: it is missing, damaged, or another file.
    """
    path = folder / name
    problem = size_problem(path, entry.bytes)[1]
    try:
        if problem is None and retry_transient(path, lambda: crc32(path)) != entry.crc32:
            problem = "its checksum does not match the manifest"
        if problem is None:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
            if rows.dtype == dtype and rows.shape == (samples, *row_shape):
                return rows.view(np.ndarray)
            problem = f"does not have the rows of {samples:,} images"
    except (OSError, ValueError, EOFError) as error:
        problem = f"cannot be read ({error})"
    raise DataError(f"{path}: {problem}; {REPAIR_HINT}")
