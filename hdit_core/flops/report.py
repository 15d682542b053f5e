"""A comparison as plain numbers, for `--json`: every part at every size, and the exponents."""

from typing import Any

from hdit_core.flops.count import Count
from hdit_core.flops.scaling import DIT_B4_NAME, Comparison
from hdit_core.recipe.model import ModelRecipe

COUNTED = "one forward pass on one image; 1 MAC = 1 multiply-add = 2 FLOPs; the papers' GFLOP are GMACs"


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """Return everything that is counted; sizes are [height, width] in pixels, levels start at the outermost."""
    rows = zip(comparison.models, comparison.counts, comparison.dit_counts, strict=True)
    return {
        "network": comparison.name,
        "baseline": DIT_B4_NAME,
        "counted": COUNTED,
        "sizes": [_size(model, count, dit_count) for model, count, dit_count in rows],
        "exponents": {
            curve.name: {"fitted": curve.exponent, "between_largest_two": curve.final_exponent}
            for curve in comparison.curves
        },
    }


def _size(model: ModelRecipe, count: Count, dit_count: Count | None) -> dict[str, Any]:
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
        "dit_b4": _totals(dit_count) if dit_count else None,
        "macs_over_dit_b4": count.macs / dit_count.macs if dit_count else None,
    }


def _totals(counted: Any) -> dict[str, int]:
    return {"parameters": counted.parameters, "macs": counted.macs, "flops": counted.flops}
