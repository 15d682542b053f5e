"""Peak memory of a training step on one device, from the recipe alone.

Weights, EMA weights and optimizer state are allocated throughout. The forward pass saves activations; the backward pass
frees them, the last decoder layers first, while it allocates gradients. The peak is found by going through the stages
of the network backwards.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from hdit_core.flops.activations import (
    FLOAT32,
    AttentionKind,
    fused_blocks,
    input_bytes,
    layer_bytes,
    merge_split_bytes,
    patch_bytes,
)
from hdit_core.flops.count import Operation, count
from hdit_core.model.native.workspace import feed_forward_blocks, feed_forward_workspace, window_workspace
from hdit_core.plan.muon import muon_workspace
from hdit_core.plan.sharding import hidden_numbers
from hdit_core.recipe.model import LevelRecipe, ModelRecipe

ADAM_STATES = 2
IMAGE_COPIES = 6  # in float32: noised image, scaled image, output, target, difference and its gradient
SLACK = 1.02  # for conditioning, angles, masks, and rounding of small allocations


@dataclass(frozen=True)
class RankLayout:
    """The settings of a training run that affect its memory.

    Attributes:
        ranks: number of devices.
        sharded: whether weights, gradients and optimizer state are sharded (FSDP) or replicated (DDP, or one device).
        value_bytes: per number in matrix products: 2 for bfloat16, 4 for float32.
        averages: number of EMA copies of the weights.
        attention: kind of the attention backend: `"native"` on CPUs, otherwise `"fused"`.
        accumulates: whether steps use gradient accumulation, so that gradients are allocated throughout.
        fused_threads: threads of the fused kernels of whole blocks, on a CPU with torch built with MKL; 0: no fused
            kernels.
        muon: whether the optimizer is Muon, which stores one number per hidden weight instead of two.
    """

    ranks: int = 1
    sharded: bool = False
    value_bytes: int = 2
    averages: int = 1
    attention: AttentionKind = "fused"
    accumulates: bool = False
    fused_threads: int = 0
    muon: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a training step."""

    weights: int
    optimizer: int
    averages: int
    copies: int  # weights cast to 16 bits, gradients in communication buckets, gathered layers
    gradients: int
    activations: int
    work_space: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.fixed + self.gradients + self.activations + self.work_space

    @property
    def fixed(self) -> int:
        """Memory that is allocated throughout."""
        return self.weights + self.optimizer + self.averages + self.copies


@dataclass(frozen=True)
class LayerMemory:
    """A stage of the network: a layer, a merge, a split, or the input or output layers.

    Attributes:
        saved: bytes of activations that the forward pass saves.
        work: peak bytes of temporary buffers in the backward pass.
        parameters: number of parameters, whose gradients the backward pass allocates.
        skip: bytes of a skip connection's gradient: allocated by the decoder (positive), freed by the encoder
            (negative).
    """

    saved: int
    work: int
    parameters: int
    skip: int = 0


def training_memory(
    model: ModelRecipe, images: int, layout: RankLayout = RankLayout(), checkpointed: int = 0
) -> Memory:
    """Return the peak memory of a training step.

    Args:
        images: per micro-batch.
        layout: devices, precision and optimizer.
        checkpointed: number of levels, outermost first, with activation checkpointing.
    """
    parameters, shards = count(model).parameters, layout.ranks if layout.sharded else 1
    share = -(-parameters // shards)
    states = ADAM_STATES * parameters - (hidden_numbers(model) if layout.muon else 0)
    muon = muon_workspace(model, layout.value_bytes, layout.sharded) if layout.muon else 0
    saved, gradients, work = _peak(list(_stages(model, images, layout, checkpointed)), layout, muon)
    return Memory(
        weights=FLOAT32 * share,
        optimizer=FLOAT32 * -(-states // shards),
        averages=layout.averages * FLOAT32 * share,
        copies=_copies(model, parameters, layout),
        gradients=gradients if layout.accumulates else min(gradients, FLOAT32 * share),  # FSDP reduces them unsharded
        activations=saved,
        work_space=work,
    )


def _peak(stages: list[LayerMemory], layout: RankLayout, optimizer_work: int) -> tuple[int, int, int]:
    """Return saved activations, gradients and temporary buffers at the peak of the backward pass or optimizer step."""
    all_gradients = FLOAT32 * sum(stage.parameters for stage in stages)
    saved, gradients, waiting = sum(stage.saved for stage in stages), 0, 0
    states = [(0, all_gradients, optimizer_work)]
    for stage in reversed(stages):
        waiting += stage.skip
        own = FLOAT32 * stage.parameters
        gradients += own
        if layout.accumulates:  # new gradients of a layer are allocated in addition to the accumulated ones
            states.append((saved, all_gradients, stage.work + waiting + own))
        else:
            states.append((saved, gradients, stage.work + waiting))
        saved -= stage.saved
    return max((tuple(int(SLACK * n) for n in state) for state in states), key=sum)  # type: ignore[return-value]


def _stages(model: ModelRecipe, images: int, layout: RankLayout, checkpointed: int) -> Iterator[LayerMemory]:
    """Yield the stages of the network from its input to the loss."""
    *outer, _ = model.levels
    skips = [images * input_bytes(level, model.grid(i), layout.value_bytes) for i, level in enumerate(outer)]
    resampling = [images * merge_split_bytes(model, i, model.image_size, layout.value_bytes) for i in range(len(outer))]
    yield LayerMemory(images * patch_bytes(model, model.image_size, layout.value_bytes) // 2, 0, _mapping(model))
    for index, skip in enumerate(skips):
        yield from _layers(model, index, images, layout, checkpointed)
        # the merge saves its input; the decoder saves skip, split tokens and the input of the split
        yield LayerMemory(skip, skip, _merge_parameters(model, index), skip=-skip)
    yield from _layers(model, len(outer), images, layout, checkpointed)
    for index, skip in reversed(list(enumerate(skips))):
        yield LayerMemory(resampling[index] - skip, 2 * skip, _merge_parameters(model, index), skip=skip)
        yield from _layers(model, index, images, layout, checkpointed)
    pixels = FLOAT32 * model.input_channels * model.image_size[0] * model.image_size[1]
    patches = patch_bytes(model, model.image_size, layout.value_bytes) // 2
    yield LayerMemory(images * (patches + IMAGE_COPIES * pixels), 0, 0)


def _layers(
    model: ModelRecipe, index: int, images: int, layout: RankLayout, checkpointed: int
) -> Iterator[LayerMemory]:
    """Yield the encoder or decoder layers of a level."""
    level, grid = model.levels[index], model.grid(index)
    fused = _fused(model, index, images, layout)
    whole = images * sum(layer_bytes(model, index, grid, layout.value_bytes, layout.attention, fused).values())
    work = _work_bytes(model, index, images, layout)
    parameters = _layer_parameters(model, level)
    if index < checkpointed:
        saved = images * input_bytes(level, grid, layout.value_bytes)
        stage = LayerMemory(saved, work + whole, parameters)
    else:
        stage = LayerMemory(whole, work, parameters)
    for _ in range(level.depth):
        yield stage


def _work_bytes(model: ModelRecipe, index: int, images: int, layout: RankLayout) -> int:
    """Return the peak size of temporary buffers in the backward pass of a layer.

    It is the largest of three: GEGLU's gradients (of the residual stream, values and gates), those of attention (of the
    residual stream, output, queries, keys and values, and of attention weights if these are saved), and, if norms are
    not fused, five float32 copies of the tokens. A fused block needs the gradients of its input and output and its
    workspace.
    """
    level, grid = model.levels[index], model.grid(index)
    tokens, width = images * grid[0] * grid[1], level.width
    gated = tokens * layout.value_bytes * (width + 2 * level.hidden)
    attended = tokens * layout.value_bytes * 5 * width
    if level.attention == "neighborhood" and layout.attention == "native":
        attended += tokens * FLOAT32 * level.heads * level.kernel_size**2
    if layout.fused_threads > 0:
        fused = _fused(model, index, images, layout)
        room = {block: _fused_workspace(level, grid, images, layout.fused_threads, block) for block in fused}
        gated, attended = room.get("feed-forward", gated), room.get("attention", attended)
        saved = layer_bytes(model, index, grid, layout.value_bytes, layout.attention, fused)
        attended -= images * saved["feed-forward"]  # freed before
    plain = tokens * (FLOAT32 * 5 * width + layout.value_bytes * width) if layout.attention == "fused" else 0
    return max(gated, attended, plain)


def _fused(model: ModelRecipe, index: int, images: int, layout: RankLayout) -> frozenset[Operation]:
    if layout.fused_threads == 0:
        return frozenset()
    return fused_blocks(
        model, index, model.grid(index), layout.value_bytes, image_per_thread=images >= layout.fused_threads
    )


def _fused_workspace(level: LevelRecipe, grid: tuple[int, int], images: int, threads: int, block: Operation) -> int:
    """Return the bytes of a fused block's workspace, with its output or the gradients of its input and output."""
    rows, width, hidden = grid[0] * grid[1], level.width, level.hidden
    if block == "feed-forward":
        *_, forward_size = feed_forward_blocks(images * rows, width, hidden, threads, keep=True)
        _, backward_size = feed_forward_workspace(images, rows, width, hidden, threads)
    else:
        tokens = rows if level.attention == "global" else level.window_size**2
        _, forward_size, backward_size = window_workspace(images, rows // tokens, tokens, width, threads)
    stream = images * rows * width
    return FLOAT32 * (stream + max(forward_size, stream + backward_size))


def _copies(model: ModelRecipe, parameters: int, layout: RankLayout) -> int:
    if layout.sharded:  # a gathered layer and the next one in float32, their casts, and a gradient to reduce
        return (3 * FLOAT32 + layout.value_bytes) * max(_layer_parameters(model, level) for level in model.levels)
    low = parameters * layout.value_bytes if layout.value_bytes < FLOAT32 else 0  # casts cached by autocast
    exchanged = FLOAT32 * parameters if layout.ranks > 1 else 0  # DDP's buckets
    return low + exchanged


def _layer_parameters(model: ModelRecipe, level: LevelRecipe) -> int:
    attention = 4 * level.width**2 + model.mapping_width * level.width if level.attention != "none" else 0
    return attention + 3 * level.width * level.hidden + model.mapping_width * level.width


def _merge_parameters(model: ModelRecipe, outer: int) -> int:
    return 4 * model.levels[outer].width * model.levels[outer + 1].width


def _mapping(model: ModelRecipe) -> int:
    return count(model).at(None).parameters
