"""The parts of a manifest: shards, files of rows, buckets, condition images and vectors."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer

from hdit_core.data.image.arrays.pixel_format import MOST_CHANNELS, Dtype, PixelFormat

Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Crc32 = Annotated[int, Field(ge=0, lt=1 << 32)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Strict, so that no manifest can make a reader open a file outside its folder.
ShardName = Annotated[str, Field(pattern=r"^shard-[0-9]{6,12}(-[0-9]{1,7}x[0-9]{1,7})?\.tar$")]
Side = Annotated[int, Field(ge=1, le=1 << 20)]
Channels = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
Codec = Literal["png", "webp", "jpeg", "npy"]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
Range = Annotated[tuple[_Finite, _Finite], Field(strict=False)]

LATER_FIELDS: dict[str, object] = {
    "buckets": (),
    "hashes": None,
    "pixel_mean": (),
    "pixel_std": (),
    "dtype": "uint8",
    "value_range": (),
    "condition": None,
    "vectors": None,
    "captions": False,
}
"""Omitted when empty or equal to these values, so that the checksums of older sets stay valid."""


def _is_kept(key: str, value: object) -> bool:
    return key not in LATER_FIELDS or bool(value and value != LATER_FIELDS[key])


class StrictModel(BaseModel):
    """A part of a manifest: immutable, without unknown keys, and without later fields that are empty."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_serializer(mode="wrap")
    def _without_empty(self, serialize: Callable[["StrictModel"], dict[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if _is_kept(key, value)}


class ShardEntry(StrictModel):
    """One shard."""

    name: ShardName
    bytes: Count
    crc32: Crc32
    sha256: Sha256
    samples: Count


class IndexEntry(StrictModel):
    """A file of rows, one per image: the index, the hashes, the index of the condition images, or the vectors."""

    bytes: Count
    crc32: Crc32
    sha256: Sha256


class Bucket(StrictModel):
    """Images of one size, which are consecutive rows of the index."""

    height: Side
    width: Side
    samples: Annotated[int, Field(ge=1, lt=1 << 62)]


class ConditionEntry(StrictModel):
    """The condition images of a data set: one per image, of the same size."""

    channels: Channels
    dtype: Dtype = "uint8"
    value_range: tuple[Range, ...] = Field((), strict=False)
    codec: Codec
    index: IndexEntry  # of condition.npy

    @property
    def pixels(self) -> PixelFormat:
        """Channels, data type and range of the condition images."""
        return PixelFormat(self.channels, self.dtype, self.value_range)


class VectorsEntry(StrictModel):
    """The vectors of a data set: one per image."""

    dim: Annotated[int, Field(ge=1, le=1 << 20)]
    file: IndexEntry  # vectors.npy
