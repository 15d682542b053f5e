"""How the work of a network grows with the image: HDiT beside DiT, and the exponents of both curves."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hdit_core.errors import UsageError
from hdit_core.flops.baselines import DIT_B4, HDIT_B4, ImageSize, count_dit, grown
from hdit_core.flops.count import Count, count
from hdit_core.recipe.model import ModelRecipe

HDIT_B4_NAME = "HDiT-B/4"
DIT_B4_NAME = "DiT-B/4"


@dataclass(frozen=True)
class Curve:
    """A network's multiply-adds at several image sizes."""

    name: str
    image_sizes: tuple[ImageSize, ...]
    macs: tuple[int, ...]

    @property
    def pixels(self) -> tuple[int, ...]:
        """Pixels of each image."""
        return tuple(height * width for height, width in self.image_sizes)

    @property
    def exponent(self) -> float | None:
        """The a of macs ~ pixels^a over all sizes, or None where they do not differ."""
        return fitted_exponent(self.pixels, self.macs)

    @property
    def final_exponent(self) -> float | None:
        """The same between the two largest sizes, which is nearer to the law for large images."""
        largest = sorted(set(zip(self.pixels, self.macs, strict=True)))[-2:]
        return fitted_exponent(*zip(*largest, strict=True)) if len(largest) == 2 else None


def fitted_exponent(pixels: Sequence[int], macs: Sequence[int]) -> float | None:
    """Return the slope of the straight line through (ln pixels, ln macs) by least squares; None: no slope to be had."""
    x, y = [math.log(n) for n in pixels], [math.log(n) for n in macs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((value - mean_x) ** 2 for value in x)
    if len(set(pixels)) < 2:
        return None
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


@dataclass(frozen=True)
class Comparison:
    """A network, and DiT-B/4 beside it, at one or several image sizes.

    Attributes:
        name: what the network is called.
        models: the network at each size; the same at all of them, unless it grows.
        counts: its work at each size.
        dit_counts: the work of DiT-B/4, None where its patches do not tile the image.
    """

    name: str
    models: tuple[ModelRecipe, ...]
    counts: tuple[Count, ...]
    dit_counts: tuple[Count | None, ...]

    @property
    def curves(self) -> tuple[Curve, ...]:
        """The network's curve, and DiT-B/4's where it has one."""
        dit = tuple(count for count in self.dit_counts if count is not None)
        curves = (_curve(self.name, self.counts), _curve(DIT_B4_NAME, dit))
        return tuple(curve for curve in curves if curve.macs)


def _curve(name: str, counts: tuple[Count, ...]) -> Curve:
    return Curve(name, tuple(count.image_size for count in counts), tuple(count.macs for count in counts))


def compare(image_sizes: Iterable[ImageSize]) -> Comparison:
    """Count HDiT-B/4, grown to each size by the paper's rule, beside DiT-B/4.

    Raises:
        UsageError: a size that the grown network does not take.
    """
    models = tuple(grown(HDIT_B4, size) for size in image_sizes)
    return _compare(HDIT_B4_NAME, models, [model.image_size for model in models])


def compare_recipe(name: str, model: ModelRecipe, image_sizes: Sequence[ImageSize] = ()) -> Comparison:
    """Count a recipe's network as it stands, at its own size or at others, beside DiT-B/4.

    Raises:
        UsageError: a size that the network does not take.
    """
    image_sizes = image_sizes or (model.image_size,)
    return _compare(name, (model,) * len(image_sizes), image_sizes)


def _compare(name: str, models: tuple[ModelRecipe, ...], image_sizes: Sequence[ImageSize]) -> Comparison:
    for model, (height, width) in zip(models, image_sizes, strict=True):
        if problem := next(model.size_problems((height, width)), None):
            raise UsageError(f"{name} does not take images of {height}x{width}: {problem[0]}: {problem[1]}")
    counts = tuple(count(model, size) for model, size in zip(models, image_sizes, strict=True))
    dit_counts = tuple(count_dit(DIT_B4, size) if DIT_B4.takes(size) else None for size in image_sizes)
    return Comparison(name, models, counts, dit_counts)
