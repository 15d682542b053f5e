"""Options and arguments that several commands share, declared once; a command writes `device: DeviceOption = "auto"`.

The default stands in the command. Knobs of the recipe have no option: `--set table.key=value` reaches all of them.
"""

import re
from pathlib import Path
from typing import Annotated

import typer

from hdit_core.errors import UsageError


def recipe_names(incomplete: str) -> list[str]:
    """Return the shipped recipes of which the name begins so; the shell itself completes paths."""
    from hdit_core.recipe.read import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(incomplete)]


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="TOML file, or the name of a shipped recipe (hdit recipe list).",
        autocompletion=recipe_names,
        show_default=False,
    ),
]

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="TABLE.KEY=VALUE", help="Override a key of the recipe; repeatable.", show_default=False
    ),
]
"""Default None; hand on `overrides or ()` to `read_recipe`."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

CheckpointOption = Annotated[
    Path,
    typer.Option("--ckpt", metavar="PATH", help="Run, checkpoint folder, or safetensors file.", show_default=False),
]

OutOption = Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="Where the result is written.")]

DeviceOption = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps; auto: the best there is.")
]

SeedOption = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Seed of everything random.")]

BatchSizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, metavar="N", help="Images at once on one device.", show_default="the recipe's"),
]

WorkersOption = Annotated[int, typer.Option("--workers", min=0, metavar="N", help="Processes beside the main one.")]

WEIGHTS = "ema|model|LENGTH"

WeightsOption = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar=WEIGHTS,
        help="Averaged weights, raw ones, or an average of a length such as 0.08 (hdit ema).",
    ),
]

SizeOption = Annotated[
    str | None,
    typer.Option("--size", metavar="N|HxW", help="Height and width in pixels; one number means both."),
]
"""A text; `image_size` turns it into numbers."""


RECIPES = "the recipe's"

ClassOption = Annotated[
    int | None,
    typer.Option("--class", min=0, metavar="ID", help="One class for all images.", show_default="each in turn"),
]

GuidanceOption = Annotated[
    float | None,
    typer.Option("--guidance", min=0, metavar="W", help="Classifier-free guidance; 1: none.", show_default=RECIPES),
]

SamplerOption = Annotated[
    str | None, typer.Option("--sampler", metavar="NAME", help="Such as dpmpp_2m.", show_default=RECIPES)
]

StepsOption = Annotated[
    int | None, typer.Option("--steps", min=1, metavar="N", help="Sampler steps.", show_default=RECIPES)
]

ImagesOutOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="PATH", help="Folder, or a file .tar or .npz, or - (tar to stdout).")
]


def image_size(text: str) -> tuple[int, int]:
    """Read `"512"` or `"512x768"` (height x width, in pixels).

    Raises:
        UsageError: it is neither.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,5})(?:x([1-9][0-9]{0,5}))?", text.strip())
    if match is None:
        raise UsageError(f"--size {text}: expected pixels as N or HEIGHTxWIDTH, for example 512 or 512x768")
    height, width = match.groups()
    return int(height), int(width or height)


def image_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Read one size or several, such as `"1024,832x1216"`.

    Raises:
        UsageError: one of them is none.
    """
    return tuple(image_size(one) for one in text.split(","))
