"""A comparison as data: nested numbers for `--json`, and one row per part, network and size for `--csv`."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from hdit_core.flops.activations import FLOAT32, saved_activations
from hdit_core.flops.count import Count
from hdit_core.flops.scaling import Comparison, Series
from hdit_core.recipe.model import ModelRecipe

Position = tuple[int | None, str]  # level and operation
CSV_HEAD = ("network", "height", "width", "level", "operation", "parameters", "macs", "flops", "activation_bytes")
MEMORY = "parameters, and activations saved for the backward pass of one image, in float32"
COUNTED = "one forward pass on one image; 1 MAC = 1 multiply-add = 2 FLOPs; the papers' GFLOP are GMACs"


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """Return all counts; sizes are [height, width] in pixels, levels start with the outermost."""
    return {
        "counted": COUNTED,
        "bytes": MEMORY,
        "networks": [{"name": series.name, "sizes": list(_sizes(series))} for series in comparison.networks],
        "baselines": [
            {
                "name": series.name,
                "sizes": [
                    {"image_size": list(size), "network": name, **(_totals(count) if count else {"macs": None})}
                    for size, name, count in zip(comparison.image_sizes, series.published, series.counts, strict=True)
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
    """Return CSV with one row per part of each network and baseline at each size."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(CSV_HEAD)
    for series in (*comparison.networks, *comparison.baselines):
        for index, count in enumerate(series.counts):
            model = series.models[index] if series.models else None
            if count is not None:
                rows.writerows([series.name_at(index), *count.image_size, *row] for row in _rows(count, model))
    return text.getvalue()


def _rows(count: Count, model: ModelRecipe | None) -> Iterator[list[Any]]:
    """Yield one row per part; the activation memory of baselines is unknown."""
    saved = activation_bytes(model, count.image_size) if model else {}
    for part in count.parts:
        level = "" if part.level is None else part.level
        size_bytes = saved.get((part.level, part.operation), 0) if model else ""
        yield [level, part.operation, part.parameters, part.macs, part.flops, size_bytes]


def activation_bytes(model: ModelRecipe, image_size: tuple[int, int]) -> dict[Position, int]:
    """Return the bytes of activations saved for the backward pass of one image, by level and operation."""
    return {(part.level, part.operation): part.bytes for part in saved_activations(model, image_size)}


def _sizes(series: Series) -> Any:
    for model, count in zip(series.models, series.counts, strict=True):
        assert count is not None  # networks that do not accept a size are refused
        yield _size(model, count)


def _size(model: ModelRecipe, count: Count) -> dict[str, Any]:
    saved = activation_bytes(model, count.image_size)
    return {
        "image_size": list(count.image_size),
        **_totals(count),
        "parameter_bytes": FLOAT32 * count.parameters,
        "activation_bytes": sum(saved.values()),
        "levels": [
            {
                "level": index,
                "grid": list(model.grid(index, count.image_size)),
                "depth": level.depth,
                "width": level.width,
                "attention": level.attention,
                **_totals(count.at(index)),
                "activation_bytes": sum(size for (level_index, _), size in saved.items() if level_index == index),
            }
            for index, level in enumerate(model.levels)
        ],
        "parts": [
            {
                "level": part.level,
                "operation": part.operation,
                **_totals(part),
                "activation_bytes": saved.get((part.level, part.operation), 0),
            }
            for part in count.parts
        ],
    }


def _totals(counted: Any) -> dict[str, int]:
    return {"parameters": counted.parameters, "macs": counted.macs, "flops": counted.flops}
