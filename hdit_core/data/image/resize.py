"""Resizes an image of any size to the size of the data set: the second step of preparation.

`center` and `random` crop the largest region with the aspect ratio of the target; `pad_and_resize` keeps all and pads.
Pillow resizes, with antialiasing and without its shortcut (`reducing_gap` off), crop and scale in one operation.
"""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from PIL import Image

from hdit_core.errors import UsageError

Crop = Literal["center", "random", "fit"]
Resize = Literal["lanczos", "area", "bicubic"]

_FILTERS: dict[Resize, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,  # the mean of the pixels under each new one; enlarged, squares of one colour
    "bicubic": Image.Resampling.BICUBIC,
}


def random_crop_position(seed: int, name: str) -> tuple[float, float]:
    """Return two numbers in [0, 1) that depend only on the seed and an image's name."""
    digest = hashlib.blake2b(f"{seed}/crop/{name}".encode(errors="surrogateescape"), digest_size=16).digest()
    return tuple(int.from_bytes(half, "little") / 2**64 for half in (digest[:8], digest[8:]))  # type: ignore[return-value]


def crop_and_resize(
    image: Image.Image,
    height: int,
    width: int,
    place: tuple[float, float] = (0.5, 0.5),
    resize: Resize = "lanczos",
) -> Image.Image:
    """Crop the largest region with the target's aspect ratio, and scale it to the target's size.

    Args:
        image: mode L or RGB, any size.
        height: of the result, pixels.
        width: of the result, pixels.
        place: of the region, down and across: 0 is the top or left, 1 the bottom or right.
        resize: the filter.
    """
    scale = min(image.height / height, image.width / width)
    part_height, part_width = height * scale, width * scale
    top = (image.height - part_height) * place[0]
    left = (image.width - part_width) * place[1]
    box = (left, top, min(left + part_width, image.width), min(top + part_height, image.height))
    return image.resize((width, height), _FILTERS[resize], box=box)


def pad_and_resize(
    image: Image.Image,
    height: int,
    width: int,
    background: tuple[int, int, int],
    resize: Resize = "lanczos",
) -> Image.Image:
    """Scale the whole image into the target and pad it, centred, with the background."""
    scale = min(height / image.height, width / image.width)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    sheet = Image.new("RGB", (width, height), background).convert(image.mode)
    sheet.paste(image.resize(inner, _FILTERS[resize]), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return sheet


ImageSize = tuple[int, int]  # height, width in pixels


def _distance(size: ImageSize, height: int, width: int) -> Fraction:
    """Return the factor by which the aspect ratios differ, 1 for equal ones: exact, where a logarithm is rounded."""
    ours, its = size[0] * width, size[1] * height
    return Fraction(max(ours, its), min(ours, its))


def nearest_size(sizes: Sequence[ImageSize], height: int, width: int) -> ImageSize:
    """Return the size whose aspect ratio is nearest to an image's, by the logarithm of their quotient.

    Args:
        sizes: to choose from; the first of two that are equally near is taken.
        height: of the image, pixels.
        width: of the image, pixels.
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
