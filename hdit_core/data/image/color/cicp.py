"""Converts colors to sRGB from a space given by number (ITU-T H.273: cICP of PNG, nclx of AVIF) or by the camera."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64
from PIL import Image

from hdit_core.data.image.unusable import UnusableImageError

CONVERTED = "converted to sRGB by its color space"
UNKNOWN = "unknown color space taken as sRGB"

SRGB_PRIMARIES, SRGB_TRANSFER, UNSPECIFIED = 1, 13, 2
ADOBE_RGB = (-1, -1)
"""Not in H.273; cameras name it in EXIF."""
NOT_NAMED = (0, 0)
"""Reserved in H.273: neither sRGB nor another space that has a name."""

_D65 = (0.3127, 0.3290)
_C = (0.310, 0.316)
# Chromaticities of red, green, blue and white.
_CHROMATICITIES: dict[int, tuple[tuple[float, float], ...]] = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),  # BT.709, sRGB
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),  # BT.470 M
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),  # BT.470 BG
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),  # SMPTE 170M
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),  # SMPTE 240M
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),  # film
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),  # BT.2020
    10: ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1 / 3, 1 / 3)),  # CIE XYZ
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),  # DCI P3
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),  # Display P3
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),  # EBU 3213
    -1: ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060), _D65),  # Adobe RGB (1998)
}
_GAMMA = {4: 2.2, 5: 2.8, 8: 1.0, -1: 563 / 256}
_AS_SRGB = frozenset({1, 6, 13, 14, 15})  # browsers show the curves of video as sRGB
_HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class ColorSpace:
    """Primaries and transfer function by their numbers in H.273."""

    primaries: int
    transfer: int

    @property
    def is_srgb(self) -> bool:
        """Whether the pixels are sRGB, or taken as sRGB because the space is unspecified."""
        return self.primaries in (SRGB_PRIMARIES, UNSPECIFIED) and self.transfer in (SRGB_TRANSFER, UNSPECIFIED)


def _xyz(chromaticity: tuple[float, float]) -> Float64[np.ndarray, "3"]:
    x, y = chromaticity
    return np.array([x, y, 1 - x - y]) if y == 0 else np.array([x / y, 1, (1 - x - y) / y])


def _to_xyz(primaries: int) -> Float64[np.ndarray, "3 3"]:
    """Return the matrix from linear light of these primaries to XYZ, adapted to the white of sRGB (Bradford)."""
    *colors, white = map(_xyz, _CHROMATICITIES[primaries])
    columns = np.stack(colors, 1)
    matrix = columns * np.linalg.solve(columns, white)
    cones = (_BRADFORD @ _xyz(_D65)) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ matrix


@lru_cache(maxsize=16)
def _matrix(primaries: int) -> Float64[np.ndarray, "3 3"]:
    return np.linalg.inv(_to_xyz(SRGB_PRIMARIES)) @ _to_xyz(primaries)


def _linear(transfer: int) -> Float64[np.ndarray, "256"]:
    """Return the linear light of each 8-bit level."""
    levels = np.arange(256) / 255
    if transfer in _GAMMA:
        return levels ** _GAMMA[transfer]
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def _encode(light: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def refuse_high_dynamic_range(transfer: int) -> None:
    """Raise UnusableImageError if a transfer function, by its number, has a high dynamic range."""
    if transfer in _HIGH_DYNAMIC_RANGE:
        name = _HIGH_DYNAMIC_RANGE[transfer]
        raise UnusableImageError(f"high dynamic range ({name}) has no defined look in sRGB; tone-map it first")


def color_space_to_srgb(image: Image.Image, space: ColorSpace) -> tuple[Image.Image, list[str]]:
    """Convert an image by its color space.

    Args:
        image: of mode L or RGB.
        space: of its pixels.

    Returns:
        The image in sRGB, and remarks.

    Raises:
        UnusableImageError: it has a high dynamic range, which 8-bit sRGB cannot show.
    """
    refuse_high_dynamic_range(space.transfer)
    if space.is_srgb:
        return image, []
    transfer = SRGB_TRANSFER if space.transfer in (UNSPECIFIED, *_AS_SRGB) else space.transfer
    primaries = SRGB_PRIMARIES if space.primaries == UNSPECIFIED else space.primaries
    if primaries not in _CHROMATICITIES or (transfer != SRGB_TRANSFER and transfer not in _GAMMA):
        return image, [UNKNOWN]
    if primaries == SRGB_PRIMARIES and transfer == SRGB_TRANSFER:
        return image, []
    light = _linear(transfer)[np.asarray(image)]
    if image.mode == "RGB":
        light = light @ _matrix(primaries).T
    return Image.fromarray((_encode(light) * 255 + 0.5).astype(np.uint8)), [CONVERTED]
