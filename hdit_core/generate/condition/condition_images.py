"""From an input image to the condition image that a network takes, as its recipe computes it in training.

Without degradations in the recipe the input is the condition image. If the recipe downscales, the input is smaller by
that factor and is resized up; if it masks, the input comes with a mask of the region to be filled in. Inputs are
expected to have all other degradations already. With `degrade`, the input is a clean image, and the recipe's
degradations are applied to it.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from hdit_core.data.degrade.degrade import degrade
from hdit_core.data.degrade.filters import resize
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.errors import DataError, UsageError
from hdit_core.recipe.model import ModelRecipe
from hdit_core.recipe.run import Recipe

MASKED = 0.0  # value of masked pixels in a condition image


@dataclass(frozen=True)
class Conditioned:
    """A condition image, and what is known of the image to be generated.

    Attributes:
        condition: in [-1, 1], of the size of the image to be generated.
        image: whose known pixels are kept; None if no pixels are kept.
        filled: True where pixels are to be filled in; None without a mask.
        target: the clean image; None if it is not known.
    """

    condition: Float[Tensor, "K H W"]
    image: Float[Tensor, "C H W"] | None = None
    filled: Bool[Tensor, "1 H W"] | None = None
    target: Float[Tensor, "C H W"] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image to be generated."""
        return self.condition.shape[1], self.condition.shape[2]

    def keep_known(self, image: Float[Tensor, "C H W"]) -> Float[Tensor, "C H W"]:
        """Return a restored image with the known pixels of the input."""
        return image if self.image is None or self.filled is None else torch.where(self.filled, image, self.image)


@dataclass(frozen=True)
class ConditionMaker:
    """Makes condition images for a recipe.

    Attributes:
        recipe: of the network.
        degrade: whether inputs are clean images, which are degraded first.
        seed: of the degradations.
    """

    recipe: Recipe
    degrade: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a network that takes no condition images, or nothing to degrade, with a UsageError."""
        if not self.recipe.condition_image_channels:
            raise UsageError("the network was trained without condition images; generate with hdit sample or hdit edit")
        if self.degrade and not self.recipe.condition.degrade:
            raise UsageError(
                "--degrade: the recipe has no condition.degrade; its condition images are part of the data set"
            )

    @property
    def takes_mask(self) -> bool:
        """Whether an input needs a mask of what is to be filled in."""
        return not self.degrade and any(operation.kind == "mask" for operation in self.recipe.condition.degrade)

    @property
    def input_channels(self) -> int:
        """Channels of an input, without its mask."""
        return self.recipe.model.channels if self.degrade else self.recipe.condition_image_channels - self.takes_mask

    @property
    def input_pixels(self) -> PixelFormat:
        """Channels, data type and range of an input: those of the data set's images, or of its condition images."""
        table = self.recipe.data if self.recipe.condition.degrade else self.recipe.condition
        ranges, channels = tuple(dict.fromkeys(table.value_range)), self.input_channels
        if len(ranges) <= 1:
            return PixelFormat(channels, table.dtype, ranges)
        if len(table.value_range) == channels:
            return PixelFormat(channels, table.dtype, table.value_range)
        return PixelFormat(channels, "float32", ((-1.0, 1.0),))  # grey of channels with several ranges

    @property
    def factor(self) -> float:
        """How many times smaller an input is than the image to be generated."""
        factors = (operation.factor or 1.0 for operation in self.recipe.condition.degrade)
        return 1.0 if self.degrade else math.prod(factors, start=1.0)

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size (height, width) of the image that is generated from an input of a size."""
        return round(size[0] * self.factor), round(size[1] * self.factor)

    def make(
        self, image: Float[Tensor, "C H W"], number: int, mask: Bool[Tensor, "1 _ _"] | None = None
    ) -> Conditioned:
        """Return the condition image of an input.

        Args:
            image: the input in [-1, 1], with `input_channels`.
            number: of the image, for the random numbers of its degradations.
            mask: True where the image is to be filled in; required if and only if `takes_mask`.
        """
        operations = self.recipe.condition.degrade
        if self.degrade:
            condition = degrade(image, operations, self.seed, number)
            has_mask, target = operations[-1].kind == "mask", image
        else:
            condition = resize(image, self.output_size((image.shape[1], image.shape[2])))
            has_mask, target = mask is not None, None
            condition = condition if mask is None else _masked(condition, mask)
        if not has_mask:
            return Conditioned(condition, target=target)
        keeps = len(operations) == 1 and condition.shape[0] == self.recipe.model.channels + 1
        return Conditioned(condition, image if keeps else None, condition[-1:] > 0, target)


def _masked(image: Float[Tensor, "C H W"], mask: Bool[Tensor, "1 _ _"]) -> Float[Tensor, "K H W"]:
    if mask.shape[1:] != image.shape[1:]:
        sizes = ["x".join(map(str, each.shape[1:])) for each in (mask, image)]
        raise DataError(f"the mask has {sizes[0]} pixels, the image {sizes[1]}; use a mask of the same size")
    return torch.cat([image.masked_fill(mask, MASKED), mask.float() * 2 - 1])


def canvas_size(size: tuple[int, int], model: ModelRecipe, *others: ModelRecipe) -> tuple[int, int]:
    """Return the smallest size that networks can process and that an image fits into.

    Images that are too small for the neighborhoods of a network get the training size.

    Args:
        size: height and width of the image.
        model: whose training size the others can process too.
        others: further networks, such as a guide.
    """
    models = (model, *others)
    units = [math.lcm(*each) for each in zip(*map(_size_units, models), strict=True)]
    height, width = (-(-length // unit) * unit for length, unit in zip(size, units, strict=True))
    if any(problem for each in models for problem in each.size_problems((height, width))):
        height, width = max(height, model.image_size[0]), max(width, model.image_size[1])
    return height, width


def _size_units(model: ModelRecipe) -> tuple[int, int]:
    """Return the numbers of pixels of which height and width are multiples: a token of the last level, or windows."""
    windows = (
        level.window_size << index for index, level in enumerate(model.levels) if level.attention == "shifted-window"
    )
    tokens = math.lcm(1 << (len(model.levels) - 1), *windows)
    return model.patch_size[0] * tokens, model.patch_size[1] * tokens


def padded(image: Float[Tensor, "K H W"], size: tuple[int, int]) -> Float[Tensor, "K H2 W2"]:
    """Return an image padded at the bottom and the right to a size by repeating its edges."""
    margins = (0, size[1] - image.shape[2], 0, size[0] - image.shape[1])
    return pad(image[None], margins, "replicate")[0]
