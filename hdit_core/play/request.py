"""What visitors of the page ask for, checked: numbers within limits, and settings that suit the network."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hdit_core.errors import UsageError
from hdit_core.generate.pipeline import check_class
from hdit_core.generate.settings import sample_settings
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.sample import SampleRecipe

MOST_IMAGES, MOST_STEPS, MOST_PIXELS = 64, 1000, 1 << 24
LARGEST_NUMBER = 2**53 - 1  # a browser rounds larger whole numbers
IN_TURN = "in turn"
"""The choice that gives image i class i modulo the number of classes."""


@dataclass(frozen=True)
class SampleForm:
    """What to sample.

    Attributes:
        count: number of images.
        class_id: of all images; None: each class in turn, or a network without classes.
        settings: of the sampler.
    """

    seed: int
    count: int
    class_id: int | None
    settings: SampleRecipe


def whole_number(value: Any, name: str, least: int = 0, most: int = LARGEST_NUMBER) -> int:
    """Return a whole number that a visitor typed.

    Raises:
        UsageError: it is none, or outside the limits.
    """
    number = _finite(value)
    if number is None or number != int(number) or not least <= number <= most:
        raise UsageError(f"{name} {_shown(value)}: expected a whole number from {least:,} to {most:,}")
    return int(number)


def real_number(value: Any, name: str, least: float = 0.0, most: float = math.inf) -> float:
    """Return a number that a visitor typed.

    Raises:
        UsageError: it is none, NaN, or outside the limits.
    """
    number = _finite(value)
    if number is None or not least <= number <= most:
        limits = f"a number of at least {least:g}" if most == math.inf else f"a number from {least:g} to {most:g}"
        raise UsageError(f"{name} {_shown(value)}: expected {limits}")
    return float(number)


def read_form(values: Mapping[str, Any], recipe: Recipe) -> SampleForm:
    """Return what a visitor asks for.

    Args:
        values: of the fields seed, count, class, steps, sampler, schedule, guidance, low and high; low and high are the
            guidance interval, and empty without one.
        recipe: of the network, with its default sampling settings.

    Raises:
        UsageError: a value is missing, wrong or too large, in one line that names the field.
    """
    count = whole_number(values["count"], "images", 1, MOST_IMAGES)
    check_pixels("images", count, recipe)
    settings = {
        "steps": whole_number(values["steps"], "steps", 1, MOST_STEPS),
        "sampler": str(values["sampler"]),
        "schedule": str(values["schedule"]),
        "guidance": real_number(values["guidance"], "guidance"),
        "guidance_interval": _interval(values["low"], values["high"], recipe.sample),
    }
    return SampleForm(
        whole_number(values["seed"], "seed"), count, _class_id(values["class"], recipe), _checked(recipe, settings)
    )


def check_pixels(name: str, count: int, recipe: Recipe) -> None:
    """Refuse more images than are sampled at once on a page.

    Raises:
        UsageError: they have too many pixels in total.
    """
    height, width = recipe.model.image_size
    if count > 1 and count * height * width > MOST_PIXELS:
        most = max(1, MOST_PIXELS // (height * width))
        raise UsageError(
            f"{name} {count}: expected at most {most} of {height}x{width} at once; use hdit sample for more"
        )


def _checked(recipe: Recipe, settings: Mapping[str, Any]) -> SampleRecipe:
    """Return the recipe's sampling settings with others; of several mistakes the first one is raised."""
    try:
        return sample_settings(recipe, **settings)
    except UsageError as problem:
        raise UsageError(str(problem).splitlines()[0]) from None


def _interval(low: Any, high: Any, sample: SampleRecipe) -> tuple[float, float] | None:
    """Return the guidance interval; None for none, neither from the visitor nor from the recipe."""
    if low in (None, "") and high in (None, "") and sample.guidance_interval is None:
        return None
    first = 0.0 if low in (None, "") else real_number(low, "guidance from sigma")
    last = sample.sigma_max if high in (None, "") else real_number(high, "guidance to sigma")
    if first >= last:
        raise UsageError(f"guidance from sigma {first:g} to {last:g}: expected the lower noise level first")
    return first, last


def _class_id(value: Any, recipe: Recipe) -> int | None:
    if not recipe.model.num_classes or value in (None, "", IN_TURN):
        return None
    class_id = whole_number(value, "class")
    check_class(recipe.model.num_classes, class_id)
    return class_id


def _finite(value: Any) -> float | int | None:
    """Return a finite number, also from its text; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = value if isinstance(value, int) else int(value) if _is_digits(value) else float(value)
        return number if math.isfinite(number) else None
    except (ValueError, OverflowError):
        return None


def _is_digits(value: float | str) -> bool:
    return isinstance(value, str) and len(value) < 40 and value.strip().isascii() and value.strip().isdigit()


def _shown(value: Any) -> str:
    return "(empty)" if value in (None, "") else str(value)[:40]
