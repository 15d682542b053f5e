"""The tables of `hdit flops`: a network by level and by operation, its baselines, and scaling exponents."""

from collections.abc import Iterator

from hdit_cli.console import align
from hdit_core.flops.activations import FLOAT32
from hdit_core.flops.baselines import ImageSize
from hdit_core.flops.count import OPERATIONS, Count
from hdit_core.flops.report import COUNTED, MEMORY, activation_bytes
from hdit_core.flops.scaling import SCALED, Comparison, Curve
from hdit_core.recipe.model import LevelRecipe, ModelRecipe

WORK_HEAD = ("parameters", "GMAC", "GFLOP")
BYTES_HEAD = ("MB of parameters", "MB saved")


def lines(comparison: Comparison) -> Iterator[str]:
    """Yield the lines that `hdit flops` prints without `--json`."""
    yield f"{COUNTED[0].upper()}{COUNTED[1:]}."
    yield ""
    if len(comparison.image_sizes) == len(comparison.networks) == 1:
        (network,) = comparison.networks
        model, count = network.models[0], network.counts[0]
        assert count is not None
        yield from _by_level(model, count)
        yield ""
        yield from _by_operation(model, count)
        yield ""
        yield f"MB: {MEMORY}."
        yield ""
    yield from _totals(comparison)
    if any(SCALED in name for series in comparison.baselines for name in series.published):
        yield f"{SCALED}: published for another input size (DiT and U-ViT: also latents), and counted at this one."
    for series in comparison.baselines:
        if len({name.removesuffix(f" {SCALED}") for name in series.published}) > 1:
            yield f"{series.name}: the published network of each size, so its growth is not that of one network."
    if all(curve.exponent is not None for curve in comparison.curves):
        yield ""
        yield from map(_growth, comparison.curves)


def _by_level(model: ModelRecipe, count: Count) -> list[str]:
    kept = activation_bytes(model, count.image_size)
    rows = [["level", "tokens", "layers", "width", "attention", *WORK_HEAD, "share", *BYTES_HEAD]]
    for index, level in enumerate(model.levels):
        innermost = index == len(model.levels) - 1
        layers = f"{level.depth}" if innermost else f"{level.depth}+{level.depth}"
        shape = [f"{index}", _size(model.grid(index, count.image_size)), layers, f"{level.width}", _attention(level)]
        held = sum(size for (place, _), size in kept.items() if place == index)
        bytes_here = _mega(FLOAT32 * count.at(index).parameters), _mega(held)
        rows.append([*shape, *_work(count.at(index)), _share(count.at(index), count), *bytes_here])
    mapping = count.at(None)
    bytes_here = _mega(FLOAT32 * mapping.parameters), "-"
    rows.append(["mapping", "", "", f"{model.mapping_width}", "", *_work(mapping), _share(mapping, count), *bytes_here])
    return align(rows)


def _by_operation(model: ModelRecipe, count: Count) -> list[str]:
    places = [*range(len(model.levels)), None]
    heads = [f"level {index}" for index in range(len(model.levels))] + ["mapping"]
    kept = activation_bytes(model, count.image_size)
    rows = [["GMAC", *heads, "total", "share", *BYTES_HEAD]]
    for operation in OPERATIONS:
        part = count.of(operation)
        cells = [_giga(part.at(place).macs) if part.at(place).parts else "-" for place in places]
        held = sum(size for (_, of), size in kept.items() if of == operation)
        bytes_here = _mega(FLOAT32 * part.parameters), _mega(held) if held else "-"
        rows.append([operation, *cells, _giga(part.macs), _share(part, count), *bytes_here])
    return align(rows)


def _totals(comparison: Comparison) -> list[str]:
    """Return one row per network and size; the last columns are the MACs relative to each baseline."""
    rows = [["network", "size", *WORK_HEAD, *(f"vs {series.name}" for series in comparison.baselines)]]
    for index, size in enumerate(comparison.image_sizes):
        against = [series.counts[index] for series in comparison.baselines]
        for series in (*comparison.networks, *comparison.baselines):
            count, name = series.counts[index], series.name_at(index)
            if count is None:
                rows.append([name, _size(size), "size not supported", "-", "-", *("-" for _ in against)])
                continue
            shares = [_share(count, whole) if whole and whole is not count else "-" for whole in against]
            rows.append([name, _size(size), *_work(count), *shares])
    return align(rows)


def _growth(curve: Curve) -> str:
    growth = f"MACs of {curve.name} scale as pixels^{curve.exponent:.3f}"
    if len(curve.pixels) == 2:
        return growth
    return f"{growth} (least squares over all sizes), pixels^{curve.final_exponent:.3f} between the two largest"


def _work(count: Count) -> tuple[str, str, str]:
    return f"{count.parameters:,}", _giga(count.macs), _giga(count.flops)


def _giga(number: int) -> str:
    return f"{number / 1e9:,.3f}" if number >= 1e9 else f"{number / 1e9:.4f}"


def _mega(number: int) -> str:
    return f"{number / 1e6:,.1f}"


def _share(part: Count, whole: Count) -> str:
    return f"{100 * part.macs / whole.macs:.2f} %"


def _size(size: ImageSize) -> str:
    return "x".join(map(str, size))


def _attention(level: LevelRecipe) -> str:
    side = {"neighborhood": level.kernel_size, "shifted-window": level.window_size}.get(level.attention)
    return f"{level.attention} {side}x{side}" if side else level.attention
