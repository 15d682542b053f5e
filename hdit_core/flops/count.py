"""Parameters and multiply-adds of a network by level and operation, from its recipe alone.

One multiply-add is one MAC; a MAC is two FLOPs. The "GFLOP" of the HDiT and DiT papers are GMACs. Counts are for one
forward pass on one image.

Only matrix products are counted, by the convention of the reference implementation's counter, whose published counts
this module reproduces exactly: each linear layer times its number of rows (one row per image for the mapping network
and the linear layer of each AdaRMSNorm), and the two products of attention, with k x k keys per query (also at borders,
where the window is shifted inwards), window x window, or all. Norms, rotary positions, softmax, GELU, the product of
the Fourier features, additive positions, lerps, sums and embedding look-ups are not counted.
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
FLOPS_PER_MAC = 2
FORWARD_AND_BACKWARD = 3  # the backward pass has two matrix products for each one of the forward pass
AUGMENTATION_AND_TIME = 2  # embeddings that every network projects into its mapping network
MATRICES_PER_FEED_FORWARD: dict[FeedForward, int] = {"geglu": 3, "gelu": 2}  # of width x hidden: values, gates, output
VECTORS_PER_NORM: dict[Norm, int] = {"rms": 1, "layer": 2}  # computed from the conditioning: scale, and shift


@dataclass(frozen=True)
class Part:
    """Parameters and cost of one operation of one level, encoder and decoder together.

    Attributes:
        level: 0 for the outermost; None for the mapping network, which belongs to no level.
        operation: one of `OPERATIONS`.
        parameters: number of learned parameters.
        macs: multiply-adds of one forward pass on one image.
    """

    level: int | None
    operation: Operation
    parameters: int
    macs: int

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 per MAC."""
        return 2 * self.macs


@dataclass(frozen=True)
class Count:
    """The parts of a network at one image size (height and width in pixels)."""

    image_size: tuple[int, int]
    parts: tuple[Part, ...]

    @property
    def parameters(self) -> int:
        """Number of learned parameters of the network."""
        return sum(part.parameters for part in self.parts)

    @property
    def macs(self) -> int:
        """Multiply-adds of one forward pass on one image."""
        return sum(part.macs for part in self.parts)

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass on one image: 2 per MAC."""
        return 2 * self.macs

    def of(self, operation: Operation) -> "Count":
        """Return the parts of one operation."""
        return Count(self.image_size, tuple(part for part in self.parts if part.operation == operation))

    def at(self, level: int | None) -> "Count":
        """Return the parts of one level, or of the mapping network for None."""
        return Count(self.image_size, tuple(part for part in self.parts if part.level == level))


def count(model: ModelRecipe, image_size: tuple[int, int] | None = None) -> Count:
    """Return the counts of a network at an image size that it accepts (see `ModelRecipe.size_problems`).

    Args:
        image_size: height and width in pixels; default: the network's.
    """
    image_size = image_size or model.image_size
    parts = (*_levels(model, image_size), *_patches(model, image_size), *_merges(model, image_size))
    return Count(image_size, (*parts, _mapping(model)))


def _levels(model: ModelRecipe, image_size: tuple[int, int]) -> Iterator[Part]:
    for index, level in enumerate(model.levels):
        tokens = _tokens(model, index, image_size)
        layers = layers_at(model, index)
        attends = level.attention != "none"

        if attends:
            projections = 4 * level.width**2  # q, k, v, out
            yield Part(index, "attention projections", layers * projections, layers * tokens * projections)
            products = 2 * level.width * keys_per_query(level, tokens)  # q k^T, and the weights times v
            yield Part(index, "attention", layers * level.heads, layers * tokens * products)

        feed_forward = MATRICES_PER_FEED_FORWARD[model.feed_forward] * level.width * level.hidden
        yield Part(index, "feed-forward", layers * feed_forward, layers * tokens * feed_forward)

        modulated = layers * (2 if attends else 1) * VECTORS_PER_NORM[model.norm]
        norms = modulated * model.mapping_width * level.width  # one row per image
        yield Part(index, "conditioning", norms, norms)


def layers_at(model: ModelRecipe, index: int) -> int:
    """Return the number of layers of a level, encoder and decoder together."""
    depth = model.levels[index].depth
    return depth if index == len(model.levels) - 1 else 2 * depth


def keys_per_query(level: LevelRecipe, tokens: int) -> int:
    """Return the number of tokens to which each token of a level attends, including itself."""
    return {
        "global": tokens,
        "neighborhood": level.kernel_size**2,
        "shifted-window": level.window_size**2,
        "none": 0,
    }[level.attention]


def _patches(model: ModelRecipe, image_size: tuple[int, int]) -> Iterator[Part]:
    channels = model.input_channels + model.channels  # of patch_in, with the condition image, and of patch_out
    linear = channels * model.patch_size[0] * model.patch_size[1] * model.levels[0].width
    norm = model.levels[0].width
    yield Part(0, "patches", linear + norm, linear * _tokens(model, 0, image_size))


def _merges(model: ModelRecipe, image_size: tuple[int, int]) -> Iterator[Part]:
    """Yield the merges and splits between each level and the next, attributed to the outer level."""
    for index, (outer, inner) in enumerate(zip(model.levels, model.levels[1:], strict=False)):
        linear = 4 * outer.width * inner.width  # of a merge of four tokens, or a split into four
        lerp = 1 if model.skip == "lerp" else 0
        join = 2 * outer.width**2 if model.skip == "concat" else 0
        macs = 2 * linear * _tokens(model, index + 1, image_size) + join * _tokens(model, index, image_size)
        yield Part(index, "merges and splits", 2 * linear + lerp + join, macs)


def _mapping(model: ModelRecipe) -> Part:
    width, depth = model.mapping_width, model.mapping_depth
    embeddings = AUGMENTATION_AND_TIME * width**2 + model.mapping_cond_dim * width
    linear = embeddings + depth * MATRICES_PER_FEED_FORWARD[model.feed_forward] * width * model.mapping_hidden
    norms = (depth + 2) * width
    classes = (model.num_classes + 1) * width if model.num_classes else 0
    return Part(None, "conditioning", linear + norms + classes, linear)


def _tokens(model: ModelRecipe, level: int, image_size: tuple[int, int]) -> int:
    rows, columns = model.grid(level, image_size)
    return rows * columns
