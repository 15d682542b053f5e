"""The options of `hdit sample` alone; those that other commands have, too, are in `drawing_options.py`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from hdit_core.errors import UsageError

WORTH_COMPILING = 1000  # images, below which a minute of compiling is not made good
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}

DEFAULT_COUNT = 64

CountOption = Annotated[
    int | None,
    typer.Option(
        "--n",
        "--count",
        min=1,
        metavar="N",
        help="How many images; torchrun passes on only --count.",
        show_default=str(DEFAULT_COUNT),
    ),
]

SeedsOption = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        metavar="LIST",
        help="Which images, e.g. 0-63,100; image i of a --seed has noise of its own.",
        show_default="the first N",
    ),
]

GridOption = Annotated[
    str | None,
    typer.Option("--grid", metavar="ROWSxCOLUMNS", help="Shape of grid.png.", show_default="the first 100, square"),
]

TrajectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--trajectory", metavar="FILE.webp", help="Animate the way of the first 16 images.", show_default=False
    ),
]

BudgetOption = Annotated[
    str | None,
    typer.Option("--budget", metavar="TIME", help="As many as fit into 90s, 10m or 2h.", show_default=False),
]

CompileOption = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the layers first, which takes a minute.",
        show_default=f"on a GPU, from {WORTH_COMPILING} images on",
    ),
]


def chosen_numbers(count: int | None, listed: str | None) -> list[int]:
    """Return the numbers of the images that `--n` or `--seeds` asks for.

    Raises:
        UsageError: both do, or the list is none.
    """
    if count is not None and listed is not None:
        raise UsageError(f"--n {count} and --seeds {listed}: each says which images; give one of them")
    if listed is None:
        return list(range(count or DEFAULT_COUNT))
    from hdit_core.generate.ranges import read_ranges

    return read_ranges(listed)


def seconds(text: str) -> float:
    """Read `"90s"`, `"10m"` or `"2h"`.

    Raises:
        UsageError: it is no such time, or none at all.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh])", text.strip())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--budget {text}: expected a time such as 90s, 10m or 2h")
    return float(match[1]) * UNITS_S[match[2]]
