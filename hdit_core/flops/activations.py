"""What a forward pass keeps for its backward pass, from the recipe alone: bytes by level and operation.

Counted are the tensors that autograd holds, each once however many operations ask for it; parameters are not among
them. One image's share is counted; what all images of a batch have in common (angles, masks) is left out, and so is the
conditioning, a few numbers an image.

What comes out of matrix products has the products' type, and so has what runs between the blocks; statistics (of norms,
of queries and keys, of a softmax) are float32. On a CPU some blocks run in one compiled pass, which keeps less
(`model/one_pass.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hdit_core.flops.count import Operation
from hdit_core.model.native.workspace import MAX_GLOBAL_TOKENS, MAX_WINDOW_TOKENS, should_fuse
from hdit_core.recipe.model import FeedForward, LevelRecipe, ModelRecipe, Skip

FLOAT32, INT64 = 4, 8
KEPT_OF_UNIT: dict[FeedForward, int] = {"geglu": 3, "gelu": 2}  # hidden features: what goes in, and what comes out
KEPT_OF_SKIP: dict[Skip, int] = {"lerp": 2, "add": 0, "concat": 2}  # tokens of the outer level
SIMD_LANES = 16  # the compiled kernel's rows of queries are filled up to a multiple of these

AttentionKind = Literal["fused", "native"]
"""Whether neighborhood attention keeps a number a query and head (NATTEN, FlexAttention), or all weights (CPU)."""


@dataclass(frozen=True)
class Kept:
    """Bytes that one operation of one level keeps for one image, both ways of the hourglass together."""

    level: int
    operation: Operation
    bytes: int


def kept_for_backward(
    model: ModelRecipe,
    image_size: tuple[int, int] | None = None,
    *,
    value_bytes: int = FLOAT32,
    attention: AttentionKind = "fused",
    one_pass: bool = False,
) -> tuple[Kept, ...]:
    """Return what the network keeps for one image, by level and operation.

    Args:
        model: the network.
        image_size: rows and columns in pixels; default the network's own.
        value_bytes: of a number in the products: 4 for float32, 2 for bfloat16.
        attention: what neighborhood attention keeps.
        one_pass: whether the compiled passes of whole blocks can be had: on a CPU, where torch multiplies by MKL, and
            with an image for each thread.
    """
    image_size = image_size or model.image_size
    kept = [*_layers(model, image_size, value_bytes, attention, one_pass), *_joints(model, image_size, value_bytes)]
    return tuple(sorted(kept, key=lambda one: one.level))


def layers_at(model: ModelRecipe, index: int) -> int:
    """Return the layers of a level, those of both ways."""
    depth = model.levels[index].depth
    return depth if index == len(model.levels) - 1 else 2 * depth


def fused_blocks(
    model: ModelRecipe, index: int, grid: tuple[int, int], value_bytes: int, each_has_one: bool = True
) -> frozenset[Operation]:
    """Return which blocks of a layer are trained in one compiled pass, where those can be had.

    Args:
        model: the network.
        index: of the level.
        grid: of its tokens.
        value_bytes: of a number in the products.
        each_has_one: whether there is an image for each thread.
    """
    level, rows = model.levels[index], grid[0] * grid[1]
    if value_bytes != FLOAT32 or model.norm != "rms" or level.dropout > 0:
        return frozenset()
    blocks: set[Operation] = set()
    windows = level.attention == "shifted-window" and level.window_size**2 <= MAX_WINDOW_TOKENS
    windows |= level.attention == "global" and rows <= MAX_GLOBAL_TOKENS and each_has_one
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
    one_pass: frozenset[Operation] = frozenset(),
) -> dict[Operation, int]:
    """Return what one layer of a level keeps for one image, by operation; its own input is a part of it.

    Args:
        model: the network.
        index: of the level.
        grid: of its tokens.
        value_bytes: of a number in the products.
        attention: what neighborhood attention keeps.
        one_pass: which blocks run in one compiled pass.
    """
    level = model.levels[index]
    tokens, width = grid[0] * grid[1], value_bytes * level.width
    drops = int(level.dropout > 0)  # what is dropped is kept as a mask of the type of the products
    units = KEPT_OF_UNIT[model.feed_forward] + drops
    norm = _norm_bytes(model, level.width, value_bytes)
    feed_forward = tokens * (norm + value_bytes * units * level.hidden)
    if "feed-forward" in one_pass:
        feed_forward = tokens * (width + value_bytes * 2 * level.hidden)  # its input, values and gates
    if level.attention == "none":
        return {"feed-forward": feed_forward}
    lengths = FLOAT32 * 2 * level.heads  # of queries and keys
    projections = tokens * (norm + (1 + 2 * drops) * width + lengths)
    between = tokens * 5 * width + _weights_bytes(level, grid, attention)  # q k v before the turn, q k after
    if "attention" in one_pass:
        projections, between = tokens * (2 * width + lengths), tokens * 3 * width  # input, attended; q k v
    return {"attention projections": projections, "attention": between, "feed-forward": feed_forward}


def _norm_bytes(model: ModelRecipe, width: int, value_bytes: int) -> int:
    """Return what a conditioned norm, and the linear layer behind it, keep for one token."""
    if model.norm == "rms":
        return 2 * value_bytes * width + FLOAT32
    return (2 * FLOAT32 + value_bytes) * width + 2 * FLOAT32  # its input and its result before scale and shift too


def input_bytes(level: LevelRecipe, grid: tuple[int, int], value_bytes: int) -> int:
    """Return the bytes of what goes from layer to layer, for one image."""
    return grid[0] * grid[1] * level.width * value_bytes


def _weights_bytes(level: LevelRecipe, grid: tuple[int, int], attention: AttentionKind) -> int:
    rows, columns = grid
    if level.attention == "neighborhood" and attention == "native":
        filled = -(-columns // SIMD_LANES) * SIMD_LANES
        return FLOAT32 * level.heads * rows * filled * level.kernel_size**2
    order_and_mask = 0
    if level.attention == "shifted-window":  # where tokens stand, both ways, and the mask of every second layer
        order_and_mask = rows * columns * (2 * INT64 + FLOAT32 * level.window_size**2 // 2)
    return order_and_mask + FLOAT32 * level.heads * rows * columns  # and the log-sum-exp


def _layers(
    model: ModelRecipe, image_size: tuple[int, int], value_bytes: int, attention: AttentionKind, one_pass: bool
) -> Iterator[Kept]:
    operations: tuple[Operation, ...] = ("attention projections", "attention", "feed-forward")
    for index in range(len(model.levels)):
        grid = model.grid(index, image_size)
        blocks = fused_blocks(model, index, grid, value_bytes) if one_pass else frozenset()
        one = layer_bytes(model, index, grid, value_bytes, attention, blocks)
        for operation in operations:
            if operation in one:
                yield Kept(index, operation, layers_at(model, index) * one[operation])


def _joints(model: ModelRecipe, image_size: tuple[int, int], value_bytes: int) -> Iterator[Kept]:
    """Yield what patches, merges and splits keep; those between two levels are put down to the outer one."""
    yield Kept(0, "patches", patch_bytes(model, image_size, value_bytes))
    for index in range(len(model.levels) - 1):
        yield Kept(index, "merges and splits", joint_bytes(model, index, image_size, value_bytes))


def patch_bytes(model: ModelRecipe, image_size: tuple[int, int], value_bytes: int) -> int:
    """Return what the layers that patches enter and leave by keep for one image, the last norm's input among it."""
    rows, columns = model.grid(0, image_size)
    patch = model.channels * model.patch_size[0] * model.patch_size[1]
    return rows * columns * (value_bytes * (patch + 2 * model.levels[0].width) + FLOAT32)


def joint_bytes(model: ModelRecipe, outer: int, image_size: tuple[int, int], value_bytes: int) -> int:
    """Return what the merge below a level, the split back and the mix with the skip keep for one image."""
    skip = input_bytes(model.levels[outer], model.grid(outer, image_size), value_bytes)
    inner = input_bytes(model.levels[outer + 1], model.grid(outer + 1, image_size), value_bytes)
    return (1 + KEPT_OF_SKIP[model.skip]) * skip + inner  # the merge's input, what the skip meets, the split's input
