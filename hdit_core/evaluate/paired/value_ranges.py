"""Which stored values count as black and white, so that images of any type have a common scale from 0 to 1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Shaped

from hdit_core.data.image.arrays.pixel_format import FULL_RANGES, PixelFormat, ValueRange
from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.errors import DataError

DTYPES = ("uint8", "uint16", "float64")  # in which values are read
Stored = Shaped[np.ndarray, "_ _ _"]  # height, width, channels
Scaled = Float64[np.ndarray, "_ _ _"]
Ranges = tuple[ValueRange, ...]  # one for all channels, or one per channel


@dataclass(frozen=True)
class ValueRanges:
    """The ranges of the values of two sets, by data type.

    Attributes:
        stated: by an option, for all values but 8 bits; empty: none.
        recorded: in one of the sets.
    """

    stated: Ranges = ()
    recorded: Mapping[str, Ranges] = field(default_factory=dict)

    def of(self, dtype: str) -> Ranges:
        """Return the range of a type: the stated, the recorded, or all values of integers; empty if unknown."""
        if self.stated and dtype != "uint8":
            return self.stated
        full = (FULL_RANGES[dtype],) if dtype in FULL_RANGES else ()
        return self.recorded.get(dtype, full)

    def are_full(self, dtype: str) -> bool:
        """Return whether the range has all values of an integer type."""
        return dtype in FULL_RANGES and self.of(dtype) == (FULL_RANGES[dtype],)

    def on_one_scale(self, a: Stored, b: Stored, name: str) -> tuple[Scaled, Scaled]:
        """Return two images in units of the width of their ranges.

        With the same range of both, black keeps its distance from 0, so that SSIM is that of the stored values;
        with different ones, black is 0 in both.

        Raises:
            DataError: as `in_unit_range`.
        """
        scaled = (self.in_unit_range(a, name), self.in_unit_range(b, name))
        ranges = self.of(a.dtype.name)
        if ranges != self.of(b.dtype.name):
            return scaled
        low, high = np.array(ranges, np.float64).T
        black = low / (high - low)
        return scaled[0] + black, scaled[1] + black

    def in_unit_range(self, stored: Stored, name: str) -> Scaled:
        """Return the values of an image with its range mapped to 0..1; values outside it are not clipped.

        Raises:
            DataError: the range is unknown, or has another number of channels.
        """
        ranges = self.of(stored.dtype.name)
        if not ranges:
            raise DataError(f"{name}: has floats, whose range is not known; give it with --range LOW,HIGH")
        if len(ranges) not in (1, stored.shape[2]):
            raise DataError(f"{name}: has {stored.shape[2]} channels, and {len(ranges)} ranges are given or recorded")
        low, high = np.array(ranges, np.float64).T
        scaled: Scaled = (stored - low) / (high - low)
        return scaled

    def to_json(self, dtypes: Sequence[str]) -> dict[str, list[list[float]]]:
        """Return the ranges of some types as JSON values."""
        return {dtype: [list(pair) for pair in self.of(dtype)] for dtype in dtypes}


def _stored_as(pixels: PixelFormat) -> str:
    return pixels.dtype if pixels.dtype in FULL_RANGES else DTYPES[-1]


def value_ranges(stated: Ranges, images: ImageSet, originals: ImageSet) -> ValueRanges:
    """Return the ranges of two sets; what one of them records holds for values of the same type in the other.

    Args:
        stated: by an option.
        images, originals: the sets.

    Raises:
        DataError: both record a range of the same type, and they differ.
    """
    recorded: dict[str, Ranges] = {}
    for pixels in (images.recorded, originals.recorded):
        if pixels is None or stated:
            continue
        dtype = _stored_as(pixels)
        if recorded.setdefault(dtype, pixels.ranges) != pixels.ranges:
            raise DataError(
                f"{images.source['path']}: the recorded range of its values is {_shown(recorded[dtype])}, that of "
                f"{originals.source['path']} {_shown(pixels.ranges)}; give the one that holds with --range LOW,HIGH"
            )
    return ValueRanges(stated, recorded)


def _shown(ranges: Ranges) -> str:
    return " ".join(f"{low:g},{high:g}" for low, high in ranges)
