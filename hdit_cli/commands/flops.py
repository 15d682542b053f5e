"""`hdit flops`: parameters and multiply-adds, by level and operation, at any image size. Instant: it needs no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdit_cli.console import emit, note
from hdit_cli.options import JsonOption, RecipeArgument, SetOption, image_size
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.flops.scaling import Comparison

app = typer.Typer(add_completion=False)

DEFAULT_SIZES = "128,256,512,1024,2048"

ResolutionOption = Annotated[
    str | None,
    typer.Option(
        "--res",
        metavar="N|HxW,...",
        help=f"Image sizes in pixels, commas between; the recipe's own, or without a recipe {DEFAULT_SIZES}.",
        show_default=False,
    ),
]
PlotOption = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Draw the scaling curves; .png or .svg.", show_default=False),
]


@app.command()
def flops(
    recipe: RecipeArgument = "",
    resolutions: ResolutionOption = None,
    plot: PlotOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Count a network's parameters, MACs and FLOPs.

    The network is a recipe's, or HDiT-B/4 (ablation E of the paper) grown to each size by the paper's rule; DiT-B/4
    stands beside it. One size is broken down by level and operation; several are compared, with the exponents of
    their growth.

    Example: hdit flops --res 128,256,512,1024 --plot scaling.svg
    """
    from hdit_cli.flops_tables import lines
    from hdit_core.flops.report import as_dict

    if plot is not None:
        _check_plot(plot)
    comparison = _compare(recipe, resolutions, overrides or [])
    if plot is not None:
        _plot(comparison, plot)
    emit(as_dict(comparison), json, lines(comparison))


def _compare(recipe: str, resolutions: str | None, overrides: list[str]) -> "Comparison":
    from hdit_core.flops.scaling import compare, compare_recipe
    from hdit_core.recipe.read import read_recipe

    if recipe:
        return compare_recipe(recipe, read_recipe(recipe, overrides).model, _image_sizes(resolutions))
    if overrides:
        raise UsageError(f"--set {overrides[0]}: there is no recipe to change; name one, for example imagenet256")
    return compare(_image_sizes(DEFAULT_SIZES if resolutions is None else resolutions))


def _image_sizes(text: str | None) -> list[tuple[int, int]]:
    try:
        return [image_size(size) for size in text.split(",")] if text is not None else []
    except UsageError:
        raise UsageError(
            f"--res {text}: expected pixels as N or HEIGHTxWIDTH, commas between, for example 256 or 512x768,1024"
        ) from None


def _check_plot(path: Path) -> None:
    if path.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"--plot {path}: expected a name that ends in .png or .svg")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {path.parent}")


def _plot(comparison: "Comparison", path: Path) -> None:
    if any(curve.exponent is None for curve in comparison.curves):
        raise UsageError(f"--plot {path}: a curve needs two sizes or more; add --res {DEFAULT_SIZES}")

    from hdit_core.files import write_whole
    from hdit_core.flops.plot import scaling_plot

    write_whole(path, scaling_plot(comparison.curves, "png" if path.suffix.lower() == ".png" else "svg"))
    note(f"wrote {path}")
