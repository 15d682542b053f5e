"""Variants of a network that differ in the side of the attention window or of the patches."""

from collections.abc import Iterator, Sequence
from itertools import product

from hdit_core.errors import UsageError
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
