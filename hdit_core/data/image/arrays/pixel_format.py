"""What the numbers of an image mean: channels, data type, and the range that is mapped to [-1, 1]."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

Dtype = Literal["uint8", "uint16", "float32"]
ValueRange = tuple[float, float]  # lowest and highest value, mapped to -1 and 1

MOST_CHANNELS = 64
FULL_RANGES: dict[str, ValueRange] = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}


@dataclass(frozen=True)
class PixelFormat:
    """The format of all images of a data set, or of all its condition images."""

    channels: int
    dtype: Dtype = "uint8"
    value_range: tuple[ValueRange, ...] = ()  # one, or one per channel; empty: all values of the integers

    @property
    def is_8_bit_image(self) -> bool:
        """Whether the image is 8-bit grayscale or RGB, which PNG, WebP and JPEG store."""
        return self.dtype == "uint8" and self.channels in (1, 3)

    @property
    def ranges(self) -> tuple[ValueRange, ...]:
        """The range of values that is mapped to [-1, 1]: one for all channels, or one per channel."""
        return self.value_range or (FULL_RANGES[self.dtype],)

    @property
    def itemsize(self) -> int:
        """Bytes per value."""
        return np.dtype(self.dtype).itemsize

    def problem(self) -> str | None:
        """Return what is inconsistent, None if nothing is."""
        if not 1 <= self.channels <= MOST_CHANNELS:
            return f"{self.channels} channels, expected 1 to {MOST_CHANNELS}"
        if self.dtype == "float32" and not self.value_range:
            return "float32 values without a range"
        if len(self.value_range) not in (0, 1, self.channels):
            return f"{len(self.value_range)} ranges for {self.channels} channels, expected one, or one per channel"
        for low, high in self.value_range:
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                return f"a range from {low:g} to {high:g}, expected a lowest and a higher finite value"
        return None
