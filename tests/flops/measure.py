"""The same count taken by torch on the network itself, as a check of the closed forms; on the meta device, so for free.

Two traps lie here. The counter sees no work at all in fused attention on a CPU; on the meta device attention runs as
plain products. And it knows nothing of neighborhood attention, whose operators tell it their own work: that of the
model, not the products of a tile that its mask throws away.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hdit_core.flops.count import Operation
from hdit_core.model.blocks import TransformerLayer
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.model.linear import MIN_ROWS
from hdit_core.recipe.model import ModelRecipe

Place = tuple[int | None, Operation]

FLOPS_PER_MAC = 2
WAYS = ("down", "up")
BATCH = MIN_ROWS  # with fewer images the products of one row an image would be padded, and counted so


def measured_macs(model: ModelRecipe, image_size: tuple[int, int] | None = None) -> dict[Place, int]:
    """Return the multiply-adds of one forward pass on one image, by level (None: the mapping network) and operation.

    Args:
        model: the network.
        image_size: rows and columns in pixels; by default the recipe's.
    """
    image_size = image_size or model.image_size
    with torch.device("meta"):
        network = HourglassTransformer(model.model_copy(update={"attention_backend": "auto"}))
    flops = _flops_by_module(network, image_size)
    macs: dict[Place, int] = {}
    for place, name in _places(network):
        macs[place] = macs.get(place, 0) + flops.get(name, 0) // FLOPS_PER_MAC
    assert sum(macs.values()) * FLOPS_PER_MAC == flops["Global"], "work outside of the modules that are known here"
    return macs


def _flops_by_module(network: HourglassTransformer, image_size: tuple[int, int]) -> dict[str, int]:
    """Return one image's FLOPs in each module, by its name; what a block attends with stands under `NAME.attend`."""
    model = network.recipe
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(
            torch.empty(BATCH, model.channels, *image_size),
            torch.empty(BATCH),
            _if(model.num_classes, torch.empty(BATCH, dtype=torch.int64)),
            mapping_cond=_if(model.mapping_cond_dim, torch.empty(BATCH, model.mapping_cond_dim)),
            condition=_if(model.condition_channels, torch.empty(BATCH, model.condition_channels, *image_size)),
        )
    prefix = f"{type(network).__name__}."
    flops = {name.removeprefix(prefix): sum(by.values()) // BATCH for name, by in counter.get_flop_counts().items()}
    for name in [name for name in flops if name.endswith(".attention")]:
        inside = sum(flops.get(f"{name}.{part}", 0) for part in ("norm", "qkv", "out"))
        flops[f"{name}.attend"] = flops[name] - inside
    return flops


def _if(wanted: int, tensor: Tensor) -> Tensor | None:
    return tensor if wanted else None


def _layers(network: HourglassTransformer, level: int) -> Iterator[tuple[str, TransformerLayer]]:
    """Yield the layers of a level with their names, the way down first."""
    innermost = level == len(network.recipe.levels) - 1
    ways = {"middle": network.middle} if innermost else {f"{way}.{level}": getattr(network, way)[level] for way in WAYS}
    for name, layers in ways.items():
        for index, layer in enumerate(layers):
            yield f"{name}.{index}", layer


def _places(network: HourglassTransformer) -> Iterator[tuple[Place, str]]:
    """Yield where the work of each module belongs."""
    yield (None, "conditioning"), "conditioning"
    yield (0, "patches"), "patch_in"
    yield (0, "patches"), "patch_out"
    for level in range(len(network.recipe.levels)):
        if level < len(network.merges):
            yield (level, "merges and splits"), f"merges.{level}"
            yield (level, "merges and splits"), f"splits.{level}"
        for name, layer in _layers(network, level):
            yield (level, "conditioning"), f"{name}.feed_forward.norm"
            yield (level, "feed-forward"), f"{name}.feed_forward.up"
            yield (level, "feed-forward"), f"{name}.feed_forward.down"
            if layer.attention is not None:
                yield (level, "conditioning"), f"{name}.attention.norm"
                yield (level, "attention projections"), f"{name}.attention.qkv"
                yield (level, "attention projections"), f"{name}.attention.out"
                yield (level, "attention"), f"{name}.attention.attend"
