"""`hdit flops`: parameters and multiply-adds by level and operation, at any image size. Imports no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdit_cli.console import emit, note
from hdit_cli.options.shared import JsonOption, RecipeArgument, SetOption, image_size
from hdit_core.errors import UsageError
from hdit_core.files import check_output

if TYPE_CHECKING:
    from hdit_core.flops.scaling import Comparison


app = typer.Typer(add_completion=False)

DEFAULT_SIZES = "128,256,512,1024,2048"

ResolutionOption = Annotated[
    str | None,
    typer.Option(
        "--sizes",
        "--res",
        metavar="N|HxW,...",
        help="Image sizes in pixels, separated by commas.",
        show_default=f"of RECIPE, or {DEFAULT_SIZES}",
    ),
]
AgainstOption = Annotated[
    str,
    typer.Option(
        "--against",
        metavar="NAME,...",
        help="Baselines: dit-{s,b,l,xl}/PATCH, u-vit-{s,m,l,h}/PATCH, adm; or none.",
    ),
]
KernelOption = Annotated[
    str | None,
    typer.Option(
        "--kernel-sizes", "--kernel", metavar="K,...", help="Attention window sizes, e.g. 5,7,9; one network each."
    ),
]
PatchOption = Annotated[
    str | None,
    typer.Option("--patch-sizes", "--patch", metavar="P,...", help="Patch sizes, e.g. 2,4,8; one network each."),
]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV: one row per network, size, level and operation.")]
PlotOption = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Plot the scaling curves to a .png or .svg file."),
]


@app.command()
def flops(
    recipe: RecipeArgument = "",
    resolutions: ResolutionOption = None,
    against: AgainstOption = "dit-b/4",
    kernels: KernelOption = None,
    patches: PatchOption = None,
    plot: PlotOption = None,
    overrides: SetOption = None,
    csv: CsvOption = False,
    json: JsonOption = False,
) -> None:
    """Count a network's parameters, MACs and FLOPs.

    Counts the network of a recipe, or HDiT-B/4 (ablation E of the paper) scaled to each size by the paper's rule, and
    compares it with DiT-B/4 or the networks of --against. For one image size, prints the counts of each level and
    operation; for several sizes or networks, a comparison with fitted scaling exponents.

    Examples:
      hdit flops ffhq1024
      hdit flops --against dit-b/4,u-vit-m/4,adm --plot scaling.svg
    """
    from hdit_cli.tables.flops import lines
    from hdit_core.flops.report import as_csv, as_dict

    if csv and json:
        raise UsageError("--csv and --json: choose one")
    check_output("--plot", plot, ".png", ".svg")
    comparison = _compare(recipe, resolutions, against, kernels, patches, overrides or [])
    if plot is not None:
        _plot(comparison, plot)
    emit(as_dict(comparison), json, as_csv(comparison).splitlines() if csv else lines(comparison))


def _compare(
    recipe: str, resolutions: str | None, against: str, kernels: str | None, patches: str | None, overrides: list[str]
) -> "Comparison":
    from hdit_core.flops.baselines import baseline
    from hdit_core.flops.scaling import compare, compare_recipe
    from hdit_core.recipe.read import read_recipe

    baselines = [] if against == "none" else [baseline(name) for name in against.split(",")]
    sides = {"kernels": _sides("--kernel-sizes", kernels), "patches": _sides("--patch-sizes", patches)}
    if recipe:
        model = read_recipe(recipe, overrides).model
        return compare_recipe(recipe, model, _image_sizes(resolutions), baselines, **sides)
    if overrides:
        raise UsageError(f"--set {overrides[0]}: needs a recipe, for example imagenet256")
    return compare(_image_sizes(DEFAULT_SIZES if resolutions is None else resolutions), baselines, **sides)


def _sides(option: str, text: str | None) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        raise UsageError(f"{option} {text}: expected whole numbers separated by commas, for example 5,7,9") from None


def _image_sizes(text: str | None) -> list[tuple[int, int]]:
    try:
        return [image_size(size) for size in text.split(",")] if text is not None else []
    except UsageError:
        raise UsageError(
            f"--sizes {text}: expected N or HEIGHTxWIDTH in pixels, separated by commas, such as 256 or 512x768,1024"
        ) from None


def _plot(comparison: "Comparison", path: Path) -> None:
    if any(curve.exponent is None for curve in comparison.curves):
        raise UsageError(f"--plot {path}: a curve needs two sizes or more; add --sizes {DEFAULT_SIZES}")

    from hdit_core.files import write_atomic
    from hdit_core.flops.plot import scaling_plot

    write_atomic(path, scaling_plot(comparison.curves, "png" if path.suffix.lower() == ".png" else "svg"))
    note(f"wrote {path}")
