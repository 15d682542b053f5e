"""Scaling of cost with image size: HDiT compared with DiT and other baselines, and exponents of their curves."""

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
    """Yield the network with every combination of kernel and patch size, and a name for each.

    Args:
        name: of the network.
        model: the network.
        kernels: kernel sizes of neighborhood attention; empty: the network's.
        patches: patch sizes in pixels; empty: the network's.

    Raises:
        UsageError: a kernel size is even or too small, a patch size is too small, or the network has no neighborhood
            attention.
    """
    for kernel in kernels:
        if kernel < 3 or kernel % 2 == 0:
            raise UsageError(f"--kernel-sizes {kernel}: expected odd numbers of at least 3, for example 5,7,9")
    for patch in patches:
        if patch < 1:
            raise UsageError(f"--patch-sizes {patch}: expected numbers of at least 1, for example 2,4,8")
    if kernels and all(level.attention != "neighborhood" for level in model.levels):
        raise UsageError(f"--kernel-sizes: {name} has no neighborhood attention; leave it out")
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
SCALED = "(scaled)"  # suffix of a baseline's name at sizes for which it was not published


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
        """The exponent a of macs ~ pixels^a, fitted to all sizes; None if all sizes have the same area."""
        return fitted_exponent(self.pixels, self.macs)

    @property
    def final_exponent(self) -> float | None:
        """The exponent between the two largest sizes, which is closer to the asymptotic one; None as above."""
        largest = sorted(set(zip(self.pixels, self.macs, strict=True)))[-2:]
        return fitted_exponent(*zip(*largest, strict=True)) if len(largest) == 2 else None


def fitted_exponent(pixels: Sequence[int], costs: Sequence[int] | Sequence[float]) -> float | None:
    """Return the slope of a least-squares line through (ln pixels, ln costs); None if all pixels are equal."""
    x, y = [math.log(n) for n in pixels], [math.log(n) for n in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((value - mean_x) ** 2 for value in x)
    if len(set(pixels)) < 2:
        return None
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


@dataclass(frozen=True)
class Series:
    """One network at all sizes of a comparison.

    Attributes:
        name: of the network.
        counts: of the network at each size; None for sizes that it does not accept.
        models: the recipe at each size; empty for a baseline.
        published: for a baseline, the name of the published network at each size, with the suffix "(scaled)" if it was
            published for other sizes; otherwise empty.
    """

    name: str
    counts: tuple[Count | None, ...]
    models: tuple[ModelRecipe, ...] = ()
    published: tuple[str, ...] = ()

    def name_at(self, index: int) -> str:
        """Return the name of the network at the size with this index."""
        return self.published[index] if self.published else self.name

    @property
    def curve(self) -> Curve | None:
        """The multiply-adds at all accepted sizes; None if there are none."""
        counts = [count for count in self.counts if count is not None]
        return Curve(self.name, tuple(c.image_size for c in counts), tuple(c.macs for c in counts)) if counts else None


@dataclass(frozen=True)
class Comparison:
    """Networks and baselines at one or several image sizes (height and width in pixels)."""

    image_sizes: tuple[ImageSize, ...]
    networks: tuple[Series, ...]
    baselines: tuple[Series, ...]

    @property
    def curves(self) -> tuple[Curve, ...]:
        """The curves of the networks, and of baselines that accept at least one size."""
        return tuple(series.curve for series in (*self.networks, *self.baselines) if series.curve)


def compare(
    image_sizes: Sequence[ImageSize],
    against: Sequence[Baseline] = (DIT_B4,),
    *,
    kernels: Sequence[int] = (),
    patches: Sequence[int] = (),
) -> Comparison:
    """Return a comparison of HDiT-B/4, grown to each size by the paper's rule, with baselines.

    Args:
        image_sizes: height and width in pixels.
        kernels: kernel sizes of neighborhood attention, one network for each; empty: 7, as in the paper.
        patches: patch sizes in pixels, one network for each; empty: 4, as in the paper.

    Raises:
        UsageError: a grown network does not accept one of the sizes.
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
    """Return a comparison of a recipe's network, at its own size or at others, with baselines; see `compare`.

    Raises:
        UsageError: the network does not accept one of the sizes.
    """
    sizes = tuple(image_sizes) or (model.image_size,)
    networks = [
        _series(variant_name, (variant,) * len(sizes), sizes)
        for variant_name, variant in variants(name, model, kernels, patches)
    ]
    return Comparison(sizes, tuple(networks), _baselines(against, sizes))


def _series(name: str, models: tuple[ModelRecipe, ...], image_sizes: Sequence[ImageSize]) -> Series:
    for model, (height, width) in zip(models, image_sizes, strict=True):
        if problem := next(model.size_problems((height, width)), None):
            raise UsageError(f"{name} does not accept images of {height}x{width}: {problem[0]}: {problem[1]}")
    return Series(name, tuple(count(model, size) for model, size in zip(models, image_sizes, strict=True)), models)


def _baselines(against: Sequence[Baseline], image_sizes: Sequence[ImageSize]) -> tuple[Series, ...]:
    return tuple(
        Series(
            network.name,
            tuple(network.count(size) if network.accepts(size) else None for size in image_sizes),
            published=tuple(_published_name(network, size) for size in image_sizes),
        )
        for network in against
    )


def _published_name(network: Baseline, image_size: ImageSize) -> str:
    suffix = "" if network.is_published(image_size) else f" {SCALED}"
    return f"{network.published_name(image_size)}{suffix}"
