"""`manifest.json`: what a prepared data set holds, and the hashes that hold it together.

    manifest.json        written last: a set with a manifest is complete
    index.npy            one row per image (`shard.INDEX_DTYPE`), bucket by bucket, each in the order of the inputs
    hashes.npy           one row per image (`shard.HASHES_DTYPE`), to find duplicates
    shard-000000.tar     ordinary webdataset tars; shard-000000-832x1216.tar where images have several sizes
    rejects.jsonl        inputs that could not be used, each with the reason

`root` identifies the set: the SHA-256 of everything that a reader sees (image format, classes, shards, index). It
depends neither on the number of processes that made the set, nor on kills, nor on the order in which a folder lists its
files.

Version 2 has buckets: images of several sizes. A set of one size is still written as version 1.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Shaped
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer

from hdit_core.data.format.pixel_stats import overall_std
from hdit_core.data.format.transient import retry_transient
from hdit_core.errors import DataError
from hdit_core.files import crc32, read_json, write_atomic

MANIFEST = "manifest.json"
INDEX = "index.npy"
HASHES = "hashes.npy"
REJECTS = "rejects.jsonl"
FORMAT_VERSION = 2
LARGEST_MANIFEST_BYTES = 1 << 28
REPAIR_HINT = "prepare or copy the data again"

Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Crc32 = Annotated[int, Field(ge=0, lt=1 << 32)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Nothing else matches, so that no manifest can lead a reader out of its folder.
ShardName = Annotated[str, Field(pattern=r"^shard-[0-9]{6,12}(-[0-9]{1,7}x[0-9]{1,7})?\.tar$")]
ClassName = Annotated[str, Field(max_length=4096)]
Side = Annotated[int, Field(ge=1, le=1 << 20)]
Channels = Literal[1, 3]
Codec = Literal["png", "webp", "jpeg"]

LATER_FIELDS = ("buckets", "hashes", "pixel_mean", "pixel_std")
"""Omitted where they are empty, so that the checksums of older sets stay valid."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_serializer(mode="wrap")
    def _without_empty(self, serialize: Callable[["_Strict"], dict[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if value or key not in LATER_FIELDS}


class ShardEntry(_Strict):
    """One shard."""

    name: ShardName
    bytes: Count
    crc32: Crc32
    sha256: Sha256
    samples: Count


class IndexEntry(_Strict):
    """A file of rows: the index or the hashes."""

    bytes: Count
    crc32: Crc32
    sha256: Sha256


class Bucket(_Strict):
    """Images of one size, which are consecutive rows of the index."""

    height: Side
    width: Side
    samples: Annotated[int, Field(ge=1, lt=1 << 62)]


class Origin(_Strict):
    """Where the images came from; not part of the set's identity."""

    kind: str
    name: str
    inputs: Count
    fingerprint: Sha256  # of names, sizes, times and settings: with the same one again there is nothing to do


class Contents(_Strict):
    """What a reader sees of a data set: its identity."""

    format: Literal["hdit-data"] = "hdit-data"
    format_version: Literal[1, 2] = 1
    height: Side  # with buckets, the largest of any; likewise the width
    width: Side
    channels: Channels
    codec: Codec
    samples: Annotated[int, Field(ge=1, lt=1 << 62)]
    classes: tuple[ClassName, ...] | None = Field(strict=False)
    class_counts: tuple[Count, ...] | None = Field(strict=False)
    shards: tuple[ShardEntry, ...] = Field(strict=False)
    index: IndexEntry
    buckets: tuple[Bucket, ...] = Field((), strict=False)  # sorted by height, then width; in version 2 only

    @property
    def sizes(self) -> tuple[Bucket, ...]:
        """The sizes of the images in the order of the index; a single one without buckets."""
        return self.buckets or (Bucket(height=self.height, width=self.width, samples=self.samples),)


class Manifest(_Strict):
    """A prepared data set."""

    contents: Contents
    root: Sha256
    origin: Origin
    settings: dict[str, str | int]
    rejects: Count
    remarks: dict[str, Count]  # what a user may want to know: number of images per remark
    made_with: dict[str, str]
    hashes: IndexEntry | None = None  # None in sets of early versions
    pixel_mean: tuple[float, ...] = Field((), strict=False)  # of each channel, of pixels in [-1, 1]; empty: not known
    pixel_std: tuple[float, ...] = Field((), strict=False)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image; with buckets, of the smallest shape that holds every image."""
        return self.contents.height, self.contents.width, self.contents.channels


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
    """Read the JSON of a manifest, whoever wrote it."""
    try:
        return retry_transient(path, lambda: read_json(path, LARGEST_MANIFEST_BYTES))
    except FileNotFoundError:
        raise DataError(
            f"{path}: not found; expected a data set made by `hdit prepare-data`, and a finished one"
        ) from None
    except OSError as problem:
        raise DataError(f"{path}: cannot be read ({problem.strerror}); {REPAIR_HINT}") from None
    except ValueError as problem:
        raise DataError(f"{path}: damaged: {problem}; {REPAIR_HINT}") from None


def _contradiction(contents: Contents) -> str | None:
    """Return what is inconsistent in a manifest, None if nothing is."""
    if sum(shard.samples for shard in contents.shards) != contents.samples:
        return f"its shards do not add up to {contents.samples:,} samples"
    if len(contents.classes or ()) != len(contents.class_counts or ()):
        return "it has different numbers of classes and of class counts"
    if bool(contents.buckets) != (contents.format_version == 2):
        return f"format version {contents.format_version} does not fit {len(contents.buckets)} buckets"
    if sum(bucket.samples for bucket in contents.sizes) != contents.samples:
        return f"its buckets do not add up to {contents.samples:,} samples"
    sizes = [(bucket.height, bucket.width) for bucket in contents.sizes]
    if sizes != sorted(set(sizes)) or (contents.height, contents.width) != tuple(map(max, zip(*sizes, strict=True))):
        return "its buckets are out of order, or do not have the stated largest size"
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
    """Return how many bytes a file has, and what is wrong with that."""
    try:
        size_bytes = retry_transient(path, path.stat).st_size
    except OSError as problem:
        return 0, f"cannot be read ({problem.strerror})"
    if size_bytes == expected_bytes:
        return size_bytes, None
    return size_bytes, f"has {size_bytes:,} bytes, the manifest says {expected_bytes:,}: truncated or altered"


def load_rows(folder: Path, name: str, entry: IndexEntry, dtype: np.dtype, samples: int) -> Shaped[np.ndarray, " _"]:
    """Map the index or the hashes of a data set into memory, after checking that the manifest means this file.

    Args:
        folder: of the data set.
        name: of the file.
        entry: what the manifest says of it.
        dtype: of its rows.
        samples: how many rows it has.

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
            if rows.dtype == dtype and rows.shape == (samples,):
                return rows.view(np.ndarray)
            problem = f"does not have the rows of {samples:,} images"
    except (OSError, ValueError, EOFError) as error:
        problem = f"cannot be read ({error})"
    raise DataError(f"{path}: {problem}; {REPAIR_HINT}")
