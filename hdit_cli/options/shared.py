"""Options and arguments that several commands share, declared once; a command writes `device: DeviceOption = "auto"`.

The default is set by the command. Recipe keys have no options: `--set table.key=value` reaches all of them.
"""

import re
from pathlib import Path
from typing import Annotated

import typer

from hdit_core.errors import UsageError

INPUT, OUTPUT, SAMPLING, PERFORMANCE = "Input", "Output", "Sampling", "Performance"  # sections of help pages
RECIPES = "the recipe's"


def recipe_names(incomplete: str) -> list[str]:
    """Return the built-in recipes whose names start with a text; the shell itself completes paths."""
    from hdit_core.recipe.read import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(incomplete)]


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="TOML file, or the name of a built-in recipe (hdit recipe list).",
        autocompletion=recipe_names,
    ),
]

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="TABLE.KEY=VALUE",
        help="Override a key of the recipe, e.g. train.lr=1e-4 or model.levels[0].width=64; repeatable. hdit recipe "
        "reference lists the keys.",
    ),
]
"""Default None; pass `overrides or ()` to `read_recipe`."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)]

CheckpointOption = Annotated[
    Path,
    typer.Option(
        "--ckpt",
        metavar="CKPT",
        help="Run (its newest checkpoint), RUN@STEP, checkpoint folder, exported folder, or safetensors file; or an "
        "address of one: hf://OWNER/NAME, s3://..., gs://..., https://....",
        rich_help_panel=INPUT,
    ),
]

DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1 or mps; auto: the best available.",
        rich_help_panel=PERFORMANCE,
    ),
]

SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Random seed.")]

BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size", min=1, help="Images per batch and device.", show_default=RECIPES, rich_help_panel=PERFORMANCE
    ),
]

WEIGHTS = "ema|model|LENGTH"
WEIGHTS_HELP = (
    "ema: the EMA weights; model: the raw (non-EMA) weights; or an EMA length (sigma_rel) such as 0.08, from the "
    "snapshots of train.ema_profiles (hdit ema)."
)

WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar=WEIGHTS,
        help=WEIGHTS_HELP,
        show_default="ema",
        rich_help_panel=INPUT,
    ),
]

DrawnWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar=WEIGHTS,
        help=WEIGHTS_HELP,
        show_default="RUN/sample.toml's, or ema",
        rich_help_panel=SAMPLING,
    ),
]

SampleSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="sample.KEY=VALUE",
        help="Override any key of the recipe's [sample]; repeatable. hdit recipe reference sample lists them.",
        rich_help_panel=SAMPLING,
    ),
]

SizeOption = Annotated[
    str | None,
    typer.Option("--size", metavar="N|HxW", help="Height and width in pixels; one number for both."),
]
"""A text; `image_size` converts it."""


def image_size(text: str, option: str = "--size") -> tuple[int, int]:
    """Read `"512"` or `"512x768"` (height x width, in pixels); `option` is named in the message.

    Raises:
        UsageError: the text is neither.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,5})(?:x([1-9][0-9]{0,5}))?", text.strip())
    if match is None:
        raise UsageError(f"{option} {text}: expected pixels as N or HEIGHTxWIDTH, for example 512 or 512x768")
    height, width = match.groups()
    return int(height), int(width or height)


def image_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Read one or several sizes, such as `"1024,832x1216"`.

    Raises:
        UsageError: one of them is not a size.
    """
    return tuple(image_size(size) for size in text.split(","))
