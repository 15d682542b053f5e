"""Memory of the activations saved for the backward pass, from the recipe alone: bytes by level and operation.

This counts the tensors that autograd saves for one image, each once even if several operations save it, without
parameters. Tensors shared by all images of a batch (angles, masks) and the conditioning, a few numbers per image, are
not counted.

Outputs of matrix products and tokens between blocks have the dtype of the products; statistics (of norms, QK norms and
softmax) are float32. On a CPU some blocks use fused kernels, which save less (`model/fused_blocks.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hdit_core.flops.count import Operation, layers_at
from hdit_core.model.native.workspace import MAX_GLOBAL_TOKENS, MAX_WINDOW_TOKENS, should_fuse
from hdit_core.recipe.model import FeedForward, LevelRecipe, ModelRecipe, Skip

FLOAT32, INT64 = 4, 8
SAVED_BY_ACTIVATION: dict[FeedForward, int] = {"geglu": 3, "gelu": 2}  # hidden features: inputs and output
SAVED_BY_SKIP: dict[Skip, int] = {"lerp": 2, "add": 0, "concat": 2}  # tokens of the outer level
SIMD_LANES = 16  # the native kernel pads rows of queries to a multiple of this

AttentionKind = Literal["fused", "native"]
"""Whether neighborhood attention saves one number per query and head (GPU backends), or all weights (native, CPU)."""


@dataclass(frozen=True)
class SavedActivations:
    """Bytes that one operation of one level saves for one image, encoder and decoder together."""

    level: int
    operation: Operation
    bytes: int


def saved_activations(
    model: ModelRecipe,
    image_size: tuple[int, int] | None = None,
    *,
    value_bytes: int = FLOAT32,
    attention: AttentionKind = "fused",
    fused_kernels: bool = False,
) -> tuple[SavedActivations, ...]:
    """Return the memory of saved activations for one image, by level and operation.

    Args:
        image_size: height and width in pixels; default: the network's.
        value_bytes: per number in matrix products: 4 for float32, 2 for bfloat16.
        attention: kind of the attention backend.
        fused_kernels: whether fused blocks are available: on a CPU with torch built with MKL, and at least one image
            per thread.
    """
    image_size = image_size or model.image_size
    layers = _layers(model, image_size, value_bytes, attention, fused_kernels)
    saved = [*layers, *_merges_and_splits(model, image_size, value_bytes)]
    return tuple(sorted(saved, key=lambda part: part.level))


def fused_blocks(
    model: ModelRecipe, index: int, grid: tuple[int, int], value_bytes: int, image_per_thread: bool = True
) -> frozenset[Operation]:
    """Return which blocks of a level's layers are trained with fused kernels, if these are available.

    Args:
        index: of the level.
        grid: of the level, in tokens.
        value_bytes: per number in matrix products.
        image_per_thread: whether there is at least one image per thread.
    """
    level, rows = model.levels[index], grid[0] * grid[1]
    if value_bytes != FLOAT32 or model.norm != "rms" or level.dropout > 0:
        return frozenset()
    blocks: set[Operation] = set()
    windows = level.attention == "shifted-window" and level.window_size**2 <= MAX_WINDOW_TOKENS
    windows |= level.attention == "global" and rows <= MAX_GLOBAL_TOKENS and image_per_thread
    if windows and should_fuse(rows, 4 * level.width**2):
        blocks.add("attention")
    if model.feed_forward == "geglu" and should_fuse(rows, 3 * level.width * level.hidden):
        blocks.add("feed-forward")
    return frozenset(blocks)


def layer_bytes(
    model: ModelRecipe,
    index: int,
    grid: tuple[int, int],
    value_bytes: int,
    attention: AttentionKind,
    fused: frozenset[Operation] = frozenset(),
) -> dict[Operation, int]:
    """Return the bytes that one layer of a level saves for one image, by operation, including the layer's input.

    Args:
        index: of the level.
        grid: of the level, in tokens.
        value_bytes: per number in matrix products.
        attention: kind of the attention backend.
        fused: blocks with fused kernels.
    """
    level = model.levels[index]
    tokens, width = grid[0] * grid[1], value_bytes * level.width
    drops = int(level.dropout > 0)  # the mask is saved in the dtype of the products
    units = SAVED_BY_ACTIVATION[model.feed_forward] + drops
    norm = _norm_bytes(model, level.width, value_bytes)
    feed_forward = tokens * (norm + value_bytes * units * level.hidden)
    if "feed-forward" in fused:
        feed_forward = tokens * (width + value_bytes * 2 * level.hidden)  # its input, values and gates
    if level.attention == "none":
        return {"feed-forward": feed_forward}
    lengths = FLOAT32 * 2 * level.heads  # of queries and keys
    projections = tokens * (norm + (1 + 2 * drops) * width + lengths)
    attended = tokens * 5 * width + _weights_bytes(level, grid, attention)  # q k v before RoPE, q k after
    if "attention" in fused:
        projections, attended = tokens * (2 * width + lengths), tokens * 3 * width  # input, output; q k v
    return {"attention projections": projections, "attention": attended, "feed-forward": feed_forward}


def _norm_bytes(model: ModelRecipe, width: int, value_bytes: int) -> int:
    """Return the bytes that an adaptive norm, and the linear layer after it, save for one token."""
    if model.norm == "rms":
        return 2 * value_bytes * width + FLOAT32
    return (2 * FLOAT32 + value_bytes) * width + 2 * FLOAT32  # also its input, and its output before scale and shift


def input_bytes(level: LevelRecipe, grid: tuple[int, int], value_bytes: int) -> int:
    """Return the bytes of a layer's input, for one image."""
    return grid[0] * grid[1] * level.width * value_bytes


def _weights_bytes(level: LevelRecipe, grid: tuple[int, int], attention: AttentionKind) -> int:
    rows, columns = grid
    if level.attention == "neighborhood" and attention == "native":
        padded = -(-columns // SIMD_LANES) * SIMD_LANES
        return FLOAT32 * level.heads * rows * padded * level.kernel_size**2
    order_and_mask = 0
    if level.attention == "shifted-window":  # window order and its inverse, and the mask of every second layer
        order_and_mask = rows * columns * (2 * INT64 + FLOAT32 * level.window_size**2 // 2)
    return order_and_mask + FLOAT32 * level.heads * rows * columns  # plus the log-sum-exp


def _layers(
    model: ModelRecipe, image_size: tuple[int, int], value_bytes: int, attention: AttentionKind, fused_kernels: bool
) -> Iterator[SavedActivations]:
    operations: tuple[Operation, ...] = ("attention projections", "attention", "feed-forward")
    for index in range(len(model.levels)):
        grid = model.grid(index, image_size)
        blocks = fused_blocks(model, index, grid, value_bytes) if fused_kernels else frozenset()
        layer = layer_bytes(model, index, grid, value_bytes, attention, blocks)
        for operation in operations:
            if operation in layer:
                yield SavedActivations(index, operation, layers_at(model, index) * layer[operation])


def _merges_and_splits(model: ModelRecipe, image_size: tuple[int, int], value_bytes: int) -> Iterator[SavedActivations]:
    """Yield the bytes saved by patches, merges and splits; merges and splits are attributed to the outer level."""
    yield SavedActivations(0, "patches", patch_bytes(model, image_size, value_bytes))
    for index in range(len(model.levels) - 1):
        yield SavedActivations(index, "merges and splits", merge_split_bytes(model, index, image_size, value_bytes))


def patch_bytes(model: ModelRecipe, image_size: tuple[int, int], value_bytes: int) -> int:
    """Return the bytes that the patch embedding and the output layers save for one image."""
    rows, columns = model.grid(0, image_size)
    patch = model.input_channels * model.patch_size[0] * model.patch_size[1]
    return rows * columns * (value_bytes * (patch + 2 * model.levels[0].width) + FLOAT32)


def merge_split_bytes(model: ModelRecipe, outer: int, image_size: tuple[int, int], value_bytes: int) -> int:
    """Return the bytes that a level's merge, split and skip connection save for one image."""
    skip = input_bytes(model.levels[outer], model.grid(outer, image_size), value_bytes)
    inner = input_bytes(model.levels[outer + 1], model.grid(outer + 1, image_size), value_bytes)
    return (1 + SAVED_BY_SKIP[model.skip]) * skip + inner  # inputs of merge, skip connection and split
