"""`hdit flops`: parameters and multiply-adds, by level and operation, at any image size. Instant: it needs no torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from hdit_cli.console import align, emit, note
from hdit_cli.options import JsonOption, RecipeArgument, SetOption, image_size
from hdit_core.errors import UsageError
from hdit_core.flops.baselines import ImageSize
from hdit_core.flops.count import OPERATIONS, Count
from hdit_core.flops.report import COUNTED, as_dict
from hdit_core.flops.scaling import DIT_B4_NAME, Comparison, Curve, compare, compare_recipe
from hdit_core.recipe.model import LevelRecipe, ModelRecipe

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
    """Print parameters, MACs and FLOPs of a recipe's network, or of HDiT-B/4, beside DiT-B/4 at the same size.

    Without a recipe, HDiT-B/4 (ablation E of the paper) is grown to each size by the paper's rule. One size is broken
    down by level and operation; several are compared, with the exponents of their growth.
    """
    comparison = _compare(recipe, resolutions, overrides or [])
    if plot is not None:
        _plot(comparison, plot)
    emit(as_dict(comparison), json, _lines(comparison))


def _compare(recipe: str, resolutions: str | None, overrides: list[str]) -> Comparison:
    from hdit_core.recipe.read import read_recipe

    if recipe:
        return compare_recipe(recipe, read_recipe(recipe, overrides).model, _image_sizes(resolutions))
    if overrides:
        raise UsageError(f"--set {overrides[0]}: there is no recipe to change; name one, for example imagenet256")
    return compare(_image_sizes(resolutions or DEFAULT_SIZES))


def _image_sizes(text: str | None) -> list[ImageSize]:
    try:
        return [image_size(size) for size in text.split(",")] if text is not None else []
    except UsageError:
        raise UsageError(
            f"--res {text}: expected pixels as N or HEIGHTxWIDTH, commas between, for example 256 or 512x768,1024"
        ) from None


def _plot(comparison: Comparison, path: Path) -> None:
    if (ending := path.suffix.lower()) not in (".png", ".svg"):
        raise UsageError(f"--plot {path}: expected a name that ends in .png or .svg")
    if any(curve.exponent is None for curve in comparison.curves):
        raise UsageError(f"--plot {path}: a curve needs two sizes or more; add --res {DEFAULT_SIZES}")

    from hdit_core.files import write_whole
    from hdit_core.flops.plot import scaling_plot

    write_whole(path, scaling_plot(comparison.curves, "png" if ending == ".png" else "svg"))
    note(f"wrote {path}")


def _lines(comparison: Comparison) -> Iterator[str]:
    yield f"{COUNTED[0].upper()}{COUNTED[1:]}."
    yield ""
    if len(comparison.counts) == 1:
        yield from _by_level(comparison.models[0], comparison.counts[0])
        yield ""
        yield from _by_operation(comparison.models[0], comparison.counts[0])
        yield ""
    yield from _totals(comparison)
    if all(curve.exponent is not None for curve in comparison.curves):
        yield ""
        yield from map(_growth, comparison.curves)


def _by_level(model: ModelRecipe, count: Count) -> list[str]:
    rows = [["level", "tokens", "layers", "width", "attention", *WORK_HEAD, "share"]]
    for index, level in enumerate(model.levels):
        innermost = index == len(model.levels) - 1
        layers = f"{level.depth}" if innermost else f"{level.depth}+{level.depth}"
        shape = [f"{index}", _size(model.grid(index, count.image_size)), layers, f"{level.width}", _attention(level)]
        rows.append([*shape, *_work(count.at(index)), _share(count.at(index), count)])
    mapping = count.at(None)
    rows.append(["mapping", "", "", f"{model.mapping_width}", "", *_work(mapping), _share(mapping, count)])
    return align(rows)


def _by_operation(model: ModelRecipe, count: Count) -> list[str]:
    places = [*range(len(model.levels)), None]
    heads = [f"level {index}" for index in range(len(model.levels))] + ["mapping"]
    rows = [["GMAC", *heads, "total", "share", "parameters"]]
    for operation in OPERATIONS:
        part = count.of(operation)
        cells = [_giga(part.at(place).macs) if part.at(place).parts else "-" for place in places]
        rows.append([operation, *cells, _giga(part.macs), _share(part, count), f"{part.parameters:,}"])
    return align(rows)


WORK_HEAD = ("parameters", "GMAC", "GFLOP")


def _totals(comparison: Comparison) -> list[str]:
    rows = [["network", "size", *WORK_HEAD, f"of {DIT_B4_NAME}"]]
    for count, dit in zip(comparison.counts, comparison.dit_counts, strict=True):
        size = _size(count.image_size)
        rows.append([comparison.name, size, *_work(count), _share(count, dit) if dit else "-"])
        rows.append([DIT_B4_NAME, size, *(_work(dit) if dit else ("does not take this size", "-", "-")), "-"])
    return align(rows)


def _growth(curve: Curve) -> str:
    growth = f"MACs of {curve.name} grow as pixels^{curve.exponent:.3f}"
    if len(curve.pixels) == 2:
        return growth
    return f"{growth} (least squares over all sizes), pixels^{curve.final_exponent:.3f} between the two largest"


def _work(count: Count) -> tuple[str, str, str]:
    return f"{count.parameters:,}", _giga(count.macs), _giga(count.flops)


def _giga(number: int) -> str:
    return f"{number / 1e9:,.3f}" if number >= 1e9 else f"{number / 1e9:.4f}"


def _share(part: Count, whole: Count) -> str:
    return f"{100 * part.macs / whole.macs:.2f} %"


def _size(size: ImageSize) -> str:
    return "x".join(map(str, size))


def _attention(level: LevelRecipe) -> str:
    side = {"neighborhood": level.kernel_size, "shifted-window": level.window_size}.get(level.attention)
    return f"{level.attention} {side}x{side}" if side else level.attention
