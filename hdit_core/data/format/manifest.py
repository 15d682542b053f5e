"""`manifest.json`: what a prepared data set holds, and the hashes that hold it together.

    manifest.json        written last: where it is, the set is complete
    index.npy            one row an image (`shard.INDEX_DTYPE`), bucket by bucket, in each in the order of the inputs
    hashes.npy           one row an image (`shard.HASHES_DTYPE`): what tells duplicates
    shard-000000.tar     ordinary webdataset tars; shard-000000-832x1216.tar where images have several sizes
    rejects.jsonl        inputs that could not be used, each with the reason

`root` identifies the set: the SHA-256 of everything that a reader gets to see (image format, classes, shards, index).
It does not depend on how many processes made the set, on kills, nor on the order in which a folder lists its files.

Version 2 has buckets, that is images of several sizes; a set of one size is still written as version 1.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer

from hdit_core.errors import DataError
from hdit_core.files import read_json, write_atomic

MANIFEST = "manifest.json"
INDEX = "index.npy"
HASHES = "hashes.npy"
REJECTS = "rejects.jsonl"
FORMAT_VERSION = 2
LARGEST_MANIFEST_BYTES = 1 << 28

Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Crc32 = Annotated[int, Field(ge=0, lt=1 << 32)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# No other file can be named, so that no manifest leads a reader out of its folder.
ShardName = Annotated[str, Field(pattern=r"^shard-[0-9]{6,12}(-[0-9]{1,7}x[0-9]{1,7})?\.tar$")]
ClassName = Annotated[str, Field(max_length=4096)]
Side = Annotated[int, Field(ge=1, le=1 << 20)]
Channels = Literal[1, 3]
Codec = Literal["png", "webp", "jpeg"]


LATER_FIELDS = ("buckets", "hashes")
"""Left out where they are empty, so that a set without them keeps the hashes that it always had."""


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
    """A file of rows: the index, or the hashes."""

    bytes: Count
    crc32: Crc32
    sha256: Sha256


class Bucket(_Strict):
    """Images of one size: as many rows of the index, after those of the buckets before."""

    height: Side
    width: Side
    samples: Annotated[int, Field(ge=1, lt=1 << 62)]


class Origin(_Strict):
    """Where the images came from; not part of the identity."""

    kind: str
    name: str
    inputs: Count
    fingerprint: Sha256  # of names, sizes, times and settings: the same again means there is nothing to do


class Contents(_Strict):
    """What a reader gets to see: the identity of a data set."""

    format: Literal["hdit-data"] = "hdit-data"
    format_version: Literal[1, 2] = 1
    height: Side  # with buckets the largest of any, and so the width
    width: Side
    channels: Channels
    codec: Codec
    samples: Annotated[int, Field(ge=1, lt=1 << 62)]
    classes: tuple[ClassName, ...] | None = Field(strict=False)
    class_counts: tuple[Count, ...] | None = Field(strict=False)
    shards: tuple[ShardEntry, ...] = Field(strict=False)
    index: IndexEntry
    buckets: tuple[Bucket, ...] = Field((), strict=False)  # by height, then width; version 2 has them, 1 has none

    @property
    def sizes(self) -> tuple[Bucket, ...]:
        """The sizes of its images in the order of the index, one where there are no buckets."""
        return self.buckets or (Bucket(height=self.height, width=self.width, samples=self.samples),)


class Manifest(_Strict):
    """A data set."""

    contents: Contents
    root: Sha256
    origin: Origin
    settings: dict[str, str | int]
    rejects: Count
    remarks: dict[str, Count]  # how many images something was done to that a user may want to know
    made_with: dict[str, str]
    hashes: IndexEntry | None = None  # None in sets that were made before there were any

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image; with buckets, of the smallest that would hold every image."""
        return self.contents.height, self.contents.width, self.contents.channels


def _sha256(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def root_of(contents: Contents) -> str:
    """Return the identity of a data set."""
    return _sha256(contents.model_dump(mode="json"))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, and so declare the set complete."""
    document = manifest.model_dump(mode="json")
    document["checksum"] = _sha256(document)
    write_atomic(folder / MANIFEST, json.dumps(document, indent=1) + "\n")


def _load_document(path: Path) -> dict[str, Any]:
    """Read the JSON of a manifest, whoever wrote it."""
    try:
        return read_json(path, LARGEST_MANIFEST_BYTES)
    except FileNotFoundError:
        raise DataError(
            f"{path}: not found; expected a data set made by `hdit prepare-data`, and a finished one"
        ) from None
    except ValueError as problem:
        raise DataError(f"{path}: damaged: {problem}; prepare the data again") from None


def _contradiction(contents: Contents) -> str | None:
    """Return what in a manifest does not fit together."""
    if sum(shard.samples for shard in contents.shards) != contents.samples:
        return f"its shards do not add up to {contents.samples:,} samples"
    if len(contents.classes or ()) != len(contents.class_counts or ()):
        return "classes and their counts differ in number"
    if bool(contents.buckets) != (contents.format_version == 2):
        return f"format version {contents.format_version} and {len(contents.buckets)} buckets"
    if sum(bucket.samples for bucket in contents.sizes) != contents.samples:
        return f"its buckets do not add up to {contents.samples:,} samples"
    sizes = [(bucket.height, bucket.width) for bucket in contents.sizes]
    if sizes != sorted(set(sizes)) or (contents.height, contents.width) != tuple(map(max, zip(*sizes, strict=True))):
        return "its buckets are out of order, or not of the size that it says"
    return None


def _check_consistency(path: Path, manifest: Manifest, document: dict[str, Any], checksum: object) -> None:
    if checksum != _sha256(document) or manifest.root != _sha256(document["contents"]):
        raise DataError(f"{path}: changed since it was written, its checksum does not fit; prepare the data again")
    if problem := _contradiction(manifest.contents):
        raise DataError(f"{path}: {problem}; prepare the data again")


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a data set.

    Raises:
        DataError: there is none, it is damaged, or a newer version of hdit made it.
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
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: damaged at {where}: {first['msg']}; prepare the data again") from None
    _check_consistency(path, manifest, document, checksum)
    return manifest
