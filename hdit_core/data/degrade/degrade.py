"""A condition image computed from an image: a list of degradations, each with its own random numbers.

The result is a pure function of (image, operations, seed, number), so that workers, ranks and restarts change no bit.
It is clipped to [-1, 1], as it would be in a file. A mask is appended as the last channel: 1 where the image is to be
filled in, -1 elsewhere; the masked pixels are 0.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.data.degrade.filters import blur, jpeg, resize
from hdit_core.data.degrade.masks import draw_mask
from hdit_core.randomness import stream
from hdit_core.recipe.data import DegradeRecipe

PURPOSE = "degrade"
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's
DEFAULT_AREA = (0.1, 0.5)
DEFAULT_QUALITY = (30, 90)


def degrade(
    image: Float[Tensor, "C H W"], operations: Sequence[DegradeRecipe], seed: int, number: int
) -> Float[Tensor, "K H W"]:
    """Return the condition image of an image, float32 on the CPU in [-1, 1].

    Args:
        image: in [-1, 1], on the CPU.
        operations: `condition.degrade` of a recipe, applied in this order; K is `degraded_channels` of them.
        seed: the seed of the run or the sampling job.
        number: index of the image in the run or the job; 0 <= number < 2^64.
    """
    result = image.float()
    for place, operation in enumerate(operations):
        result = _apply(operation, result, seed, number, place)
    return result


def _apply(
    operation: DegradeRecipe, image: Float[Tensor, "C H W"], seed: int, number: int, place: int
) -> Float[Tensor, "K H W"]:
    """Return the image after one operation, whose index in the list is `place`."""
    size = (image.shape[1], image.shape[2])
    match operation.kind:
        case "downscale":
            assert operation.factor is not None  # the recipe's validation
            small = (max(1, round(size[0] / operation.factor)), max(1, round(size[1] / operation.factor)))
            return resize(resize(image, small, operation.kernel or "bicubic"), size)
        case "blur":
            assert operation.sigma is not None
            return blur(image, operation.sigma)
        case "noise":
            assert operation.std is not None
            noise = stream(seed, PURPOSE, number, place).standard_normal(tuple(image.shape), "float32")
            return (image + operation.std * torch.from_numpy(noise)).clamp(-1, 1)
        case "grey":
            return sum(weight * channel for weight, channel in zip(LUMA, image, strict=True))[None].clamp(-1, 1)
        case "mask":
            area = operation.area or DEFAULT_AREA
            mask = draw_mask(size, operation.shape or "rectangles", area, stream(seed, PURPOSE, number, place))
            filled = torch.from_numpy(mask)
            return torch.cat([image.masked_fill(filled, 0.0), filled[None].float() * 2 - 1])
        case "jpeg":
            low, high = operation.quality or DEFAULT_QUALITY
            return jpeg(image, int(stream(seed, PURPOSE, number, place).integers(low, high + 1)))
