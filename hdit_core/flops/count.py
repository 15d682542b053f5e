"""The work of a network, from its recipe alone: parameters and multiply-adds by level and operation.

One multiply-add is one MAC; a MAC is two FLOPs. What the HDiT and DiT papers print as "GFLOP" are GMACs. Counts are of
one forward pass on one image.

Counted are matrix products and nothing else, by the convention of the reference's own counter, whose every count on
record this reproduces to the last digit: each linear layer with its number of rows (the mapping network and the linear
layer of each AdaRMSNorm too: one row an image), and the two products of attention, with k x k keys for each query (at
borders too, since the window shifts inwards), window x window, or all. Not counted are norms, rotary positions,
softmax, GELU, the Fourier features' product, additive positions, lerps, sums and embedding look-ups.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hdit_core.recipe.model import FeedForward, LevelRecipe, ModelRecipe, Norm

Operation = Literal[
    "patches", "attention projections", "attention", "feed-forward", "merges and splits", "conditioning"
]
OPERATIONS: tuple[Operation, ...] = (
    "patches",
    "attention projections",
    "attention",
    "feed-forward",
    "merges and splits",
    "conditioning",
)
AUGMENTATION_AND_TIME = 2  # embeddings that every network projects into its mapping network
MATRICES_OF_UNIT: dict[FeedForward, int] = {"geglu": 3, "gelu": 2}  # of width x hidden: values, gates, and the way back
VECTORS_OF_NORM: dict[Norm, int] = {"rms": 1, "layer": 2}  # that the conditioning gives to a norm: scale, and shift


@dataclass(frozen=True)
class Part:
    """What one operation of one level holds and costs, both ways of the hourglass together.

    Attributes:
        level: 0 for the outermost; None for the mapping network, which is outside the levels.
        operation: one of `OPERATIONS`.
        parameters: learned numbers.
        macs: multiply-adds of one forward pass on one image.
    """

    level: int | None
    operation: Operation
    parameters: int
    macs: int

    @property
    def flops(self) -> int:
        """Floating-point operations: a multiplication and an addition for each MAC."""
        return 2 * self.macs


@dataclass(frozen=True)
class Count:
    """The parts of a network at one image size (rows and columns in pixels)."""

    image_size: tuple[int, int]
    parts: tuple[Part, ...]

    @property
    def parameters(self) -> int:
        """Learned numbers of the whole network."""
        return sum(part.parameters for part in self.parts)

    @property
    def macs(self) -> int:
        """Multiply-adds of one forward pass on one image."""
        return sum(part.macs for part in self.parts)

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass on one image, 2 for each MAC."""
        return 2 * self.macs

    def of(self, operation: Operation) -> "Count":
        """Return the parts of one operation."""
        return Count(self.image_size, tuple(part for part in self.parts if part.operation == operation))

    def at(self, level: int | None) -> "Count":
        """Return the parts of one level; None: of the mapping network."""
        return Count(self.image_size, tuple(part for part in self.parts if part.level == level))


def count(model: ModelRecipe, image_size: tuple[int, int] | None = None) -> Count:
    """Count a network, at its own image size or at another that it takes (see `ModelRecipe.size_problems`).

    Args:
        model: the network.
        image_size: rows and columns in pixels.
    """
    image_size = image_size or model.image_size
    parts = (*_levels(model, image_size), *_patches(model, image_size), *_merges(model, image_size))
    return Count(image_size, (*parts, _mapping(model)))


def _levels(model: ModelRecipe, image_size: tuple[int, int]) -> Iterator[Part]:
    for index, level in enumerate(model.levels):
        tokens = _tokens(model, index, image_size)
        layers = level.depth if index == len(model.levels) - 1 else 2 * level.depth
        attends = level.attention != "none"

        if attends:
            projections = 4 * level.width**2  # q, k, v, out
            yield Part(index, "attention projections", layers * projections, layers * tokens * projections)
            products = 2 * level.width * keys_per_query(level, tokens)  # q k^T, and the weights times v
            yield Part(index, "attention", layers * level.heads, layers * tokens * products)

        feed_forward = MATRICES_OF_UNIT[model.feed_forward] * level.width * level.hidden
        yield Part(index, "feed-forward", layers * feed_forward, layers * tokens * feed_forward)

        modulated = layers * (2 if attends else 1) * VECTORS_OF_NORM[model.norm]
        norms = modulated * model.mapping_width * level.width  # one row an image
        yield Part(index, "conditioning", norms, norms)


def keys_per_query(level: LevelRecipe, tokens: int) -> int:
    """Return to how many tokens each token of a level attends, itself included."""
    return {
        "global": tokens,
        "neighborhood": level.kernel_size**2,
        "shifted-window": level.window_size**2,
        "none": 0,
    }[level.attention]


def _patches(model: ModelRecipe, image_size: tuple[int, int]) -> Iterator[Part]:
    linear = model.channels * model.patch_size[0] * model.patch_size[1] * model.levels[0].width
    norm = model.levels[0].width
    yield Part(0, "patches", 2 * linear + norm, 2 * linear * _tokens(model, 0, image_size))


def _merges(model: ModelRecipe, image_size: tuple[int, int]) -> Iterator[Part]:
    """Yield what joins each level with the next; it is put down to the outer one."""
    for index, (outer, inner) in enumerate(zip(model.levels, model.levels[1:], strict=False)):
        linear = 4 * outer.width * inner.width  # four tokens become one, and one four
        lerp = 1 if model.skip == "lerp" else 0
        join = 2 * outer.width**2 if model.skip == "concat" else 0
        macs = 2 * linear * _tokens(model, index + 1, image_size) + join * _tokens(model, index, image_size)
        yield Part(index, "merges and splits", 2 * linear + lerp + join, macs)


def _mapping(model: ModelRecipe) -> Part:
    width, depth = model.mapping_width, model.mapping_depth
    embeddings = AUGMENTATION_AND_TIME * width**2 + model.mapping_cond_dim * width
    linear = embeddings + depth * MATRICES_OF_UNIT[model.feed_forward] * width * model.mapping_hidden
    norms = (depth + 2) * width
    classes = (model.num_classes + 1) * width if model.num_classes else 0
    return Part(None, "conditioning", linear + norms + classes, linear)


def _tokens(model: ModelRecipe, level: int, image_size: tuple[int, int]) -> int:
    rows, columns = model.grid(level, image_size)
    return rows * columns
