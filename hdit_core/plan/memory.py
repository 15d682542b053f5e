"""The memory of a training step on one device, from the recipe alone.

Weights, their averages and the optimizer's state are there throughout. The forward pass keeps activations; the backward
pass lets go of them, the outermost level's last layers first, while it fills the gradients. The most that is held at
once is found by walking back over the network, piece by piece.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from hdit_core.flops.activations import (
    FLOAT32,
    AttentionKind,
    fused_blocks,
    input_bytes,
    joint_bytes,
    layer_bytes,
    patch_bytes,
)
from hdit_core.flops.count import Operation, count
from hdit_core.model.native.workspace import feed_forward_blocks, feed_forward_workspace, window_workspace
from hdit_core.plan.muon import muon_workspace
from hdit_core.plan.sharding import hidden_numbers
from hdit_core.recipe.model import LevelRecipe, ModelRecipe

ADAM_STATES = 2
IMAGE_COPIES = 6  # in float32: noised, scaled, the network's answer, its target, their difference and its gradient
SLACK = 1.02  # conditioning, angles, masks, and what small tensors are rounded up to


@dataclass(frozen=True)
class RankLayout:
    """Where a network is trained, as far as memory depends on it.

    Attributes:
        ranks: devices of the run.
        sharded: each holds its share of all numbers (FSDP) and not all of them (DDP, or one device).
        value_bytes: of a number in the products: 2 for bfloat16, 4 for float32.
        averages: moving averages of the weights.
        attention: what neighborhood attention keeps: `"native"` on CPUs, else `"fused"`.
        accumulates: a step takes several micro-batches, so that gradients are held all along.
        pass_threads: threads of the compiled passes of whole blocks, on a CPU where torch multiplies by MKL; 0: there
            are no such passes.
        muon: the optimizer is Muon, which keeps one number and not two for each hidden weight.
    """

    ranks: int = 1
    sharded: bool = False
    value_bytes: int = 2
    averages: int = 1
    attention: AttentionKind = "fused"
    accumulates: bool = False
    pass_threads: int = 0
    muon: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the moment of a step when it holds most."""

    weights: int
    optimizer: int
    averages: int
    copies: int  # of weights in 16 bits, of gradients that are exchanged, of layers that are gathered
    gradients: int
    activations: int
    work_space: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.fixed + self.gradients + self.activations + self.work_space

    @property
    def fixed(self) -> int:
        """What is there throughout."""
        return self.weights + self.optimizer + self.averages + self.copies


@dataclass(frozen=True)
class LayerMemory:
    """A stretch of the network.

    Attributes:
        kept: bytes that its forward pass keeps.
        work: bytes that its backward pass takes beside, at most.
        parameters: whose gradients there are after it.
        skip: bytes of a skip's gradient that the way down has to wait for (on the way up), and takes (negative).
    """

    kept: int
    work: int
    parameters: int
    skip: int = 0


def training_memory(model: ModelRecipe, images: int, place: RankLayout = RankLayout(), checkpointed: int = 0) -> Memory:
    """Return what a training step holds at most.

    Args:
        model: the network.
        images: of a micro-batch.
        place: where.
        checkpointed: levels, outermost first, with activation checkpointing.
    """
    parameters, holders = count(model).parameters, place.ranks if place.sharded else 1
    share = -(-parameters // holders)
    kept = ADAM_STATES * parameters - (hidden_numbers(model) if place.muon else 0)
    muon = muon_workspace(model, place.value_bytes, place.sharded) if place.muon else 0
    held, gradients, work = _most(list(_pieces(model, images, place, checkpointed)), place, muon)
    return Memory(
        weights=FLOAT32 * share,
        optimizer=FLOAT32 * -(-kept // holders),
        averages=place.averages * FLOAT32 * share,
        copies=_copies(model, parameters, place),
        gradients=gradients if place.accumulates else min(gradients, FLOAT32 * share),  # FSDP adds them up whole
        activations=held,
        work_space=work,
    )


def _most(pieces: list[LayerMemory], place: RankLayout, optimizer_work: int) -> tuple[int, int, int]:
    """Return kept activations, gradients and work space at the peak of the backward pass or the optimizer step."""
    all_gradients = FLOAT32 * sum(piece.parameters for piece in pieces)
    held, gradients, waiting = sum(piece.kept for piece in pieces), 0, 0
    moments = [(0, all_gradients, optimizer_work)]
    for piece in reversed(pieces):
        waiting += piece.skip
        own = FLOAT32 * piece.parameters
        gradients += own
        if place.accumulates:  # a layer's gradients are made beside those that they are added to
            moments.append((held, all_gradients, piece.work + waiting + own))
        else:
            moments.append((held, gradients, piece.work + waiting))
        held -= piece.kept
    return max((tuple(int(SLACK * n) for n in moment) for moment in moments), key=sum)  # type: ignore[return-value]


def _pieces(model: ModelRecipe, images: int, place: RankLayout, checkpointed: int) -> Iterator[LayerMemory]:
    """Yield the network from its input to the loss."""
    *outer, _ = model.levels
    skips = [images * input_bytes(level, model.grid(i), place.value_bytes) for i, level in enumerate(outer)]
    joints = [images * joint_bytes(model, i, model.image_size, place.value_bytes) for i in range(len(outer))]
    yield LayerMemory(images * patch_bytes(model, model.image_size, place.value_bytes) // 2, 0, _mapping(model))
    for index, skip in enumerate(skips):
        yield from _layers(model, index, images, place, checkpointed)
        # the merge's input is kept by it; skip, split tokens and the split's input, by the way up
        yield LayerMemory(skip, skip, _joint_parameters(model, index), skip=-skip)
    yield from _layers(model, len(outer), images, place, checkpointed)
    for index, skip in reversed(list(enumerate(skips))):
        yield LayerMemory(joints[index] - skip, 2 * skip, _joint_parameters(model, index), skip=skip)
        yield from _layers(model, index, images, place, checkpointed)
    pixels = FLOAT32 * model.channels * model.image_size[0] * model.image_size[1]
    patches = patch_bytes(model, model.image_size, place.value_bytes) // 2
    yield LayerMemory(images * (patches + IMAGE_COPIES * pixels), 0, 0)


def _layers(model: ModelRecipe, index: int, images: int, place: RankLayout, checkpointed: int) -> Iterator[LayerMemory]:
    """Yield the layers of a level on one way, one by one."""
    level, grid = model.levels[index], model.grid(index)
    one_pass = _in_one_pass(model, index, images, place)
    whole = images * sum(layer_bytes(model, index, grid, place.value_bytes, place.attention, one_pass).values())
    work = _work_bytes(model, index, images, place)
    parameters = _layer_parameters(model, level)
    if index < checkpointed:
        kept = images * input_bytes(level, grid, place.value_bytes)
        piece = LayerMemory(kept, work + whole, parameters)
    else:
        piece = LayerMemory(whole, work, parameters)
    for _ in range(level.depth):
        yield piece


def _work_bytes(model: ModelRecipe, index: int, images: int, place: RankLayout) -> int:
    """Return what the backward pass of a layer takes beside what is kept.

    The widest moments are the gated unit's gradient (the gradients of stream and of both halves), the attention's
    (of stream, output, queries, keys and values, and where weights are kept, theirs), and where norms are not fused,
    five float32 copies of the tokens. A block in one pass has the gradients of the stream before and behind it, and
    room to work in.
    """
    level, grid = model.levels[index], model.grid(index)
    tokens, width = images * grid[0] * grid[1], level.width
    gated = tokens * place.value_bytes * (width + 2 * level.hidden)
    attended = tokens * place.value_bytes * 5 * width
    if level.attention == "neighborhood" and place.attention == "native":
        attended += tokens * FLOAT32 * level.heads * level.kernel_size**2
    if place.pass_threads > 0:
        one_pass = _in_one_pass(model, index, images, place)
        room = {block: _room(level, grid, images, place.pass_threads, block) for block in one_pass}
        gated, attended = room.get("feed-forward", gated), room.get("attention", attended)
        kept = layer_bytes(model, index, grid, place.value_bytes, place.attention, one_pass)
        attended -= images * kept["feed-forward"]  # which is let go of before
    plain = tokens * (FLOAT32 * 5 * width + place.value_bytes * width) if place.attention == "fused" else 0
    return max(gated, attended, plain)


def _in_one_pass(model: ModelRecipe, index: int, images: int, place: RankLayout) -> frozenset[Operation]:
    if place.pass_threads == 0:
        return frozenset()
    return fused_blocks(model, index, model.grid(index), place.value_bytes, each_has_one=images >= place.pass_threads)


def _room(level: LevelRecipe, grid: tuple[int, int], images: int, threads: int, block: Operation) -> int:
    """Return what a block in one pass takes: forth its output, back the gradients before and behind it."""
    rows, width, hidden = grid[0] * grid[1], level.width, level.hidden
    if block == "feed-forward":
        *_, forth = feed_forward_blocks(images * rows, width, hidden, threads, keep=True)
        _, back = feed_forward_workspace(images, rows, width, hidden, threads)
    else:
        tokens = rows if level.attention == "global" else level.window_size**2
        _, forth, back = window_workspace(images, rows // tokens, tokens, width, threads)
    stream = images * rows * width
    return FLOAT32 * (stream + max(forth, stream + back))


def _copies(model: ModelRecipe, parameters: int, place: RankLayout) -> int:
    if place.sharded:  # a layer that is put together and the next one, in float32, their cast, and a gradient to send
        return (3 * FLOAT32 + place.value_bytes) * max(_layer_parameters(model, level) for level in model.levels)
    low = parameters * place.value_bytes if place.value_bytes < FLOAT32 else 0  # autocast keeps its casts
    exchanged = FLOAT32 * parameters if place.ranks > 1 else 0  # DDP's buckets
    return low + exchanged


def _layer_parameters(model: ModelRecipe, level: LevelRecipe) -> int:
    attention = 4 * level.width**2 + model.mapping_width * level.width if level.attention != "none" else 0
    return attention + 3 * level.width * level.hidden + model.mapping_width * level.width


def _joint_parameters(model: ModelRecipe, outer: int) -> int:
    return 4 * model.levels[outer].width * model.levels[outer + 1].width


def _mapping(model: ModelRecipe) -> int:
    return count(model).at(None).parameters
