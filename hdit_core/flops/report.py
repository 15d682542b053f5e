"""A comparison as plain numbers: every part at every size for `--json`, and one row a network and size for `--csv`."""

import csv
import io
from typing import Any

from hdit_core.flops.count import Count
from hdit_core.flops.scaling import Comparison, Series
from hdit_core.recipe.model import ModelRecipe

COUNTED = "one forward pass on one image; 1 MAC = 1 multiply-add = 2 FLOPs; the papers' GFLOP are GMACs"


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """Return everything that is counted; sizes are [height, width] in pixels, levels start at the outermost."""
    return {
        "counted": COUNTED,
        "networks": [{"name": series.name, "sizes": list(_sizes(series))} for series in comparison.networks],
        "baselines": [
            {
                "name": series.name,
                "sizes": [
                    {"image_size": list(size), **(_totals(count) if count else {"macs": None})}
                    for size, count in zip(comparison.image_sizes, series.counts, strict=True)
                ],
            }
            for series in comparison.baselines
        ],
        "exponents": {
            curve.name: {"fitted": curve.exponent, "between_largest_two": curve.final_exponent}
            for curve in comparison.curves
        },
    }


def as_csv(comparison: Comparison) -> str:
    """Return one line for each part of each network at each size, and one for each baseline and size."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["network", "height", "width", "level", "operation", "parameters", "macs", "flops"])
    for series in (*comparison.networks, *comparison.baselines):
        for count in series.counts:
            if count is None:
                continue
            for part in count.parts:
                place = "" if part.level is None else part.level
                rows.writerow(
                    [series.name, *count.image_size, place, part.operation, part.parameters, part.macs, part.flops]
                )
    return text.getvalue()


def _sizes(series: Series) -> Any:
    for model, count in zip(series.models, series.counts, strict=True):
        assert count is not None  # networks that do not take a size are refused
        yield _size(model, count)


def _size(model: ModelRecipe, count: Count) -> dict[str, Any]:
    return {
        "image_size": list(count.image_size),
        **_totals(count),
        "levels": [
            {
                "level": index,
                "grid": list(model.grid(index, count.image_size)),
                "depth": level.depth,
                "width": level.width,
                "attention": level.attention,
                **_totals(count.at(index)),
            }
            for index, level in enumerate(model.levels)
        ],
        "parts": [{"level": part.level, "operation": part.operation, **_totals(part)} for part in count.parts],
    }


def _totals(counted: Any) -> dict[str, int]:
    return {"parameters": counted.parameters, "macs": counted.macs, "flops": counted.flops}
