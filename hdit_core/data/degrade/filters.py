"""Resizing, blurring and JPEG compression of one float image, bit-identical for any number of threads."""

import io
import math

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hdit_core.images import from_uint8, to_pil, to_uint8
from hdit_core.recipe.data import Kernel

RESAMPLING: dict[Kernel, Image.Resampling] = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
TAIL = 4  # standard deviations of a blur after which its kernel ends


def resize(
    image: Float[Tensor, "C H W"], size: tuple[int, int], kernel: Kernel = "bicubic"
) -> Float[Tensor, "C H2 W2"]:
    """Return the image resized by Pillow's filter of that name, antialiased, clipped to [-1, 1].

    Args:
        image: a CPU tensor in [-1, 1].
        size: height and width in pixels.
        kernel: name of the filter.
    """
    height, width = size
    channels = [
        np.asarray(Image.fromarray(channel).resize((width, height), RESAMPLING[kernel]))
        for channel in image.float().numpy()
    ]
    return torch.from_numpy(np.stack(channels)).clamp(-1, 1)


def blur(image: Float[Tensor, "C H W"], sigma: float) -> Float[Tensor, "C H W"]:
    """Return the image after a Gaussian blur with a standard deviation in pixels; edge pixels are replicated."""
    reach = max(1, math.ceil(TAIL * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    result = image.double().numpy()
    for axis in (1, 2):
        padding = [(reach, reach) if axis == other else (0, 0) for other in range(3)]
        padded, length = np.pad(result, padding, "edge"), result.shape[axis]
        shifted = (np.take(padded, range(start, start + length), axis) for start in range(2 * reach + 1))
        result = sum(tap * part for tap, part in zip(taps, shifted, strict=True))
    return torch.from_numpy(result).float().clamp(-1, 1)


def jpeg(image: Float[Tensor, "C H W"], quality: int) -> Float[Tensor, "C H W"]:
    """Return an image of 1 or 3 channels after JPEG compression."""
    buffer = io.BytesIO()
    to_pil(to_uint8(image[None])[0]).save(buffer, "JPEG", quality=quality)
    pixels = np.array(Image.open(buffer))
    return from_uint8(pixels.reshape(1, *image.shape[1:], image.shape[0]))[0]
