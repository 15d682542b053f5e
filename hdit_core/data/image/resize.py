"""Resizes an image of any size to the size of the data set: the second step of preparation.

`center` and `random` crop the largest region with the aspect ratio of the target; `fit` keeps everything and pads.
Pillow crops and scales in one operation, with antialiasing and without its approximation (`reducing_gap` is off). A
condition image, which may have another resolution, gets the same geometry as its image.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from PIL import Image

from hdit_core.errors import UsageError

Crop = Literal["center", "random", "fit"]
Resize = Literal["lanczos", "area", "bicubic"]
ResizeFilter = Literal["lanczos", "area", "bicubic", "nearest"]  # the last for masks and labels

_FILTERS: dict[ResizeFilter, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,  # the mean of the pixels under each new one
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


def random_crop_position(seed: int, name: str) -> tuple[float, float]:
    """Return two numbers in [0, 1) that depend only on the seed and an image's name."""
    digest = hashlib.blake2b(f"{seed}/crop/{name}".encode(errors="surrogateescape"), digest_size=16).digest()
    return tuple(int.from_bytes(half, "little") / 2**64 for half in (digest[:8], digest[8:]))  # type: ignore[return-value]


ImageSize = tuple[int, int]  # height, width in pixels


@dataclass(frozen=True)
class Geometry:
    """Which region of an image becomes the target: a crop, or all of it with padding."""

    image: ImageSize
    target: ImageSize
    position: tuple[float, float] | None  # of the crop, vertical and horizontal, 0 to 1; None: pad

    def _box(self, plane: Image.Image) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of the crop, in pixels of a plane of any resolution."""
        assert self.position is not None
        scale = min(self.image[0] / self.target[0], self.image[1] / self.target[1])
        part_height, part_width = self.target[0] * scale, self.target[1] * scale
        top = max(0.0, self.image[0] - part_height) * self.position[0]  # rounding can make it negative
        left = max(0.0, self.image[1] - part_width) * self.position[1]
        down, across = plane.height / self.image[0], plane.width / self.image[1]
        right, bottom = (
            min((left + part_width) * across, float(plane.width)),
            min((top + part_height) * down, float(plane.height)),
        )
        return left * across, top * down, right, bottom

    def apply(self, plane: Image.Image, resize: ResizeFilter, padding: int | float | tuple[int, ...]) -> Image.Image:
        """Return a plane in the target's size.

        Args:
            plane: the image, its condition image, or a channel of one, in any resolution.
            resize: the filter.
            padding: the color of the padding, in the plane's mode.
        """
        height, width = self.target
        if self.position is not None:
            return plane.resize((width, height), _FILTERS[resize], box=self._box(plane))
        scale = min(height / self.image[0], width / self.image[1])
        inner = (max(1, round(self.image[1] * scale)), max(1, round(self.image[0] * scale)))
        sheet = Image.new(plane.mode, (width, height), padding)
        sheet.paste(plane.resize(inner, _FILTERS[resize]), ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return sheet


def padding_of(background: tuple[int, int, int], mode: str) -> int | tuple[int, ...]:
    """Return an RGB color in mode L or RGB."""
    return Image.new("RGB", (1, 1), background).convert(mode).getpixel((0, 0))  # type: ignore[return-value]


def crop_and_resize(image: Image.Image, height: int, width: int, resize: Resize = "lanczos") -> Image.Image:
    """Return the largest central region with the target's aspect ratio, scaled to the target's size in pixels."""
    return Geometry((image.height, image.width), (height, width), (0.5, 0.5)).apply(image, resize, 0)


def _distance(size: ImageSize, height: int, width: int) -> Fraction:
    """Return the factor by which the aspect ratios differ, 1 for equal ones; exact, unlike a logarithm."""
    ours, its = size[0] * width, size[1] * height
    return Fraction(max(ours, its), min(ours, its))


def nearest_size(sizes: Sequence[ImageSize], height: int, width: int) -> ImageSize:
    """Return the size whose aspect ratio is nearest to an image's, by the logarithm of their quotient.

    Args:
        sizes: the candidates; the first of two that are equally near is taken.
        height: height of the image in pixels.
        width: width of the image in pixels.
    """
    return min(sizes, key=lambda size: _distance(size, height, width))


def bucket_sizes(sizes: Sequence[ImageSize]) -> tuple[ImageSize, ...]:
    """Return sizes in the order of a data set's buckets: by height, then width.

    Raises:
        UsageError: two have the same aspect ratio, so that an image could get either.
    """
    ordered = sorted(sizes)
    by_shape: dict[Fraction, ImageSize] = {}
    for size in ordered:
        shape = Fraction(*size)
        if shape in by_shape:
            other = by_shape[shape]
            raise UsageError(
                f"--size: {other[0]}x{other[1]} and {size[0]}x{size[1]} have the same shape, so that an image could "
                "become either; give one size per shape"
            )
        by_shape[shape] = size
    return tuple(ordered)
