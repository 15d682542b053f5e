"""`manifest.json`: what a prepared data set holds, and the hashes that hold it together.

    manifest.json        written last: where it is, the set is complete
    index.npy            one row an image (`shard.INDEX_DTYPE`), in the order of the inputs
    shard-000000.tar     ordinary webdataset tars
    rejects.jsonl        inputs that could not be used, each with the reason

`root` identifies the set: the SHA-256 of everything that a reader gets to see (image format, classes, shards, index).
It does not depend on how many processes made the set, on kills, nor on the order in which a folder lists its files.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hdit_core.errors import DataError
from hdit_core.files import write_whole

MANIFEST = "manifest.json"
INDEX = "index.npy"
REJECTS = "rejects.jsonl"
FORMAT_VERSION = 1
LARGEST_MANIFEST_BYTES = 1 << 28

Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Crc32 = Annotated[int, Field(ge=0, lt=1 << 32)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# No other file can be named, so that no manifest leads a reader out of its folder.
ShardName = Annotated[str, Field(pattern=r"^shard-[0-9]{6,12}\.tar$")]
ClassName = Annotated[str, Field(max_length=4096)]
Side = Annotated[int, Field(ge=1, le=1 << 20)]
Channels = Literal[1, 3]
Codec = Literal["png", "webp", "jpeg"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ShardEntry(_Strict):
    """One shard."""

    name: ShardName
    bytes: Count
    crc32: Crc32
    sha256: Sha256
    samples: Count


class IndexEntry(_Strict):
    """The index."""

    bytes: Count
    crc32: Crc32
    sha256: Sha256


class Origin(_Strict):
    """Where the images came from; not part of the identity."""

    kind: str
    name: str
    inputs: Count
    fingerprint: Sha256  # of names, sizes, times and settings: the same again means there is nothing to do


class Contents(_Strict):
    """What a reader gets to see: the identity of a data set."""

    format: Literal["hdit-data"] = "hdit-data"
    format_version: Literal[1] = 1
    height: Side
    width: Side
    channels: Channels
    codec: Codec
    samples: Annotated[int, Field(ge=1, lt=1 << 62)]
    classes: tuple[ClassName, ...] | None = Field(strict=False)
    class_counts: tuple[Count, ...] | None = Field(strict=False)
    shards: tuple[ShardEntry, ...] = Field(strict=False)
    index: IndexEntry


class Manifest(_Strict):
    """A data set."""

    contents: Contents
    root: Sha256
    origin: Origin
    settings: dict[str, str | int]
    rejects: Count
    remarks: dict[str, Count]  # how many images something was done to that a user may want to know
    made_with: dict[str, str]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        return self.contents.height, self.contents.width, self.contents.channels


def _sha256(model: BaseModel) -> str:
    text = json.dumps(model.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def root_of(contents: Contents) -> str:
    """Return the identity of a data set."""
    return _sha256(contents)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, and so declare the set complete."""
    document = {**manifest.model_dump(mode="json"), "checksum": _sha256(manifest)}
    write_whole(folder / MANIFEST, json.dumps(document, indent=1) + "\n")


def _load_document(path: Path) -> dict:
    """Read the JSON of a manifest, whoever wrote it."""
    try:
        if path.stat().st_size > LARGEST_MANIFEST_BYTES:
            raise DataError(f"{path}: larger than {LARGEST_MANIFEST_BYTES >> 20} MiB, which no manifest is")
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{path}: not found; expected a data set made by `hdit prepare-data`, and a finished one"
        ) from None
    except (ValueError, RecursionError) as problem:
        raise DataError(f"{path}: damaged, not JSON ({problem}); prepare the data again") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: damaged, not a JSON object; prepare the data again")
    return document


def _check_consistency(path: Path, manifest: Manifest, checksum: object) -> None:
    contents = manifest.contents
    if checksum != _sha256(manifest) or manifest.root != root_of(contents):
        raise DataError(f"{path}: changed since it was written, its checksum does not fit; prepare the data again")
    if sum(shard.samples for shard in contents.shards) != contents.samples:
        raise DataError(f"{path}: its shards do not add up to {contents.samples:,} samples; prepare the data again")
    if len(contents.classes or ()) != len(contents.class_counts or ()):
        raise DataError(f"{path}: classes and their counts differ in number; prepare the data again")


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
    _check_consistency(path, manifest, checksum)
    return manifest
