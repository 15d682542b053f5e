"""How the work of networks grows with the image: HDiT beside DiT and others, and the exponents of their curves."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from hdit_core.errors import UsageError
from hdit_core.flops.baselines import DIT_B4, HDIT_B4, Baseline, ImageSize, scale_to_size
from hdit_core.flops.count import Count, count
from hdit_core.recipe.model import ModelRecipe


def variants(
    name: str, model: ModelRecipe, kernels: Sequence[int], patches: Sequence[int]
) -> Iterator[tuple[str, ModelRecipe]]:
    """Yield every combination of kernel and patch size, named after what differs; the network alone without any.

    Args:
        name: of the network.
        model: the network.
        kernels: sides of the window of every neighborhood level; none: the network's own.
        patches: sides of a patch in pixels; none: the network's own.

    Raises:
        UsageError: a window that is even or too small, or a network without neighborhood attention.
    """
    for kernel in kernels:
        if kernel < 3 or kernel % 2 == 0:
            raise UsageError(f"--kernel {kernel}: expected odd numbers of at least 3, for example 5,7,9")
    for patch in patches:
        if patch < 1:
            raise UsageError(f"--patch {patch}: expected numbers of at least 1, for example 2,4,8")
    if kernels and all(level.attention != "neighborhood" for level in model.levels):
        raise UsageError(f"--kernel: {name} has no neighborhood attention; leave it out")
    for kernel_size, patch_size in product(kernels or (None,), patches or (None,)):
        words = [f"{kernel_size}x{kernel_size}" if kernel_size else "", f"patch {patch_size}" if patch_size else ""]
        yield " ".join(word for word in (name, *words) if word), _changed(model, kernel_size, patch_size)


def _changed(model: ModelRecipe, kernel: int | None, patch: int | None) -> ModelRecipe:
    levels = model.levels
    if kernel:
        levels = tuple(
            level.model_copy(update={"kernel_size": kernel}) if level.attention == "neighborhood" else level
            for level in levels
        )
    return model.model_copy(update={"levels": levels} | ({"patch_size": (patch, patch)} if patch else {}))


HDIT_B4_NAME = "HDiT-B/4"
SCALED = "(scaled)"  # behind the name of a baseline at a size that it was not published for


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


def fitted_exponent(pixels: Sequence[int], costs: Sequence[int] | Sequence[float]) -> float | None:
    """Return the slope of the straight line by least squares through (ln pixels, ln costs); None: there is none."""
    x, y = [math.log(n) for n in pixels], [math.log(n) for n in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((value - mean_x) ** 2 for value in x)
    if len(set(pixels)) < 2:
        return None
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


@dataclass(frozen=True)
class Series:
    """One network at every size of a comparison.

    Attributes:
        name: what it is called.
        counts: its work at each size, None where it does not take the size.
        models: the network at each size, the same unless it grows; none for a baseline.
        published: for a baseline, the published network at each size; with "(scaled)" where that was published for
            another size.
    """

    name: str
    counts: tuple[Count | None, ...]
    models: tuple[ModelRecipe, ...] = ()
    published: tuple[str, ...] = ()

    def name_at(self, index: int) -> str:
        """Return the name of the network at the size of this index."""
        return self.published[index] if self.published else self.name

    @property
    def curve(self) -> Curve | None:
        """Its multiply-adds where it has any."""
        found = [count for count in self.counts if count is not None]
        return Curve(self.name, tuple(c.image_size for c in found), tuple(c.macs for c in found)) if found else None


@dataclass(frozen=True)
class Comparison:
    """Networks, and what they are measured against, at one or several image sizes (rows and columns in pixels)."""

    image_sizes: tuple[ImageSize, ...]
    networks: tuple[Series, ...]
    baselines: tuple[Series, ...]

    @property
    def curves(self) -> tuple[Curve, ...]:
        """The networks' curves, and those of the baselines that take any of the sizes."""
        return tuple(series.curve for series in (*self.networks, *self.baselines) if series.curve)


def compare(
    image_sizes: Sequence[ImageSize],
    against: Sequence[Baseline] = (DIT_B4,),
    *,
    kernels: Sequence[int] = (),
    patches: Sequence[int] = (),
) -> Comparison:
    """Count HDiT-B/4, grown to each size by the paper's rule, beside baselines.

    Args:
        image_sizes: rows and columns in pixels.
        against: the baselines.
        kernels: sides of the attention windows, a network for each; none: 7, the paper's.
        patches: sides of a patch in pixels, a network for each; none: 4, the paper's.

    Raises:
        UsageError: a size that a grown network does not take.
    """
    sizes = tuple(image_sizes)
    networks = [
        _series(name, tuple(scale_to_size(model, size) for size in sizes), sizes)
        for name, model in variants(HDIT_B4_NAME, HDIT_B4, kernels, patches)
    ]
    return Comparison(sizes, tuple(networks), _baselines(against, sizes))


def compare_recipe(
    name: str,
    model: ModelRecipe,
    image_sizes: Sequence[ImageSize] = (),
    against: Sequence[Baseline] = (DIT_B4,),
    *,
    kernels: Sequence[int] = (),
    patches: Sequence[int] = (),
) -> Comparison:
    """Count a recipe's network as it stands, at its own size or at others, beside baselines; see `compare`.

    Raises:
        UsageError: a size that the network does not take.
    """
    sizes = tuple(image_sizes) or (model.image_size,)
    networks = [_series(each, (one,) * len(sizes), sizes) for each, one in variants(name, model, kernels, patches)]
    return Comparison(sizes, tuple(networks), _baselines(against, sizes))


def _series(name: str, models: tuple[ModelRecipe, ...], image_sizes: Sequence[ImageSize]) -> Series:
    for model, (height, width) in zip(models, image_sizes, strict=True):
        if problem := next(model.size_problems((height, width)), None):
            raise UsageError(f"{name} does not take images of {height}x{width}: {problem[0]}: {problem[1]}")
    return Series(name, tuple(count(model, size) for model, size in zip(models, image_sizes, strict=True)), models)


def _baselines(against: Sequence[Baseline], image_sizes: Sequence[ImageSize]) -> tuple[Series, ...]:
    return tuple(
        Series(
            network.name,
            tuple(network.count(size) if network.takes(size) else None for size in image_sizes),
            published=tuple(_published_name(network, size) for size in image_sizes),
        )
        for network in against
    )


def _published_name(network: Baseline, image_size: ImageSize) -> str:
    suffix = "" if network.is_published(image_size) else f" {SCALED}"
    return f"{network.published_name(image_size)}{suffix}"
