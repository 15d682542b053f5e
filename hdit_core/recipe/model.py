"""`[model]`: the shape of the network (HDiT paper, section 3 and table 7)."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from hdit_core.recipe.table import Listed, NonNegativeInt, Pair, PositiveInt, Probability, Problem, Table

Attention = Literal["global", "neighborhood", "shifted-window", "none"]
AttentionBackend = Literal["auto", "native", "natten", "triton", "flex", "tiled"]
FeedForward = Literal["geglu", "gelu"]
Norm = Literal["rms", "layer"]
Positions = Literal["rotary", "additive"]
Skip = Literal["lerp", "add", "concat"]


class LevelRecipe(Table):
    """One level of the hourglass; all but the innermost stand on the way down and again on the way up."""

    depth: PositiveInt = Field(description="transformer layers, on each of the two ways")
    width: PositiveInt = Field(description="features per token")
    attention: Attention = Field(description="what a token attends to: everything, a k x k window around it, ...")
    head_dim: PositiveInt = Field(64, description="features per attention head")
    kernel_size: PositiveInt = Field(7, description="neighborhood: side of the window, odd")
    window_size: PositiveInt = Field(8, description="shifted-window: side of the window")
    d_ff: PositiveInt | None = Field(None, description="hidden features of the feed-forward; default 3 x width")
    dropout: Probability = Field(0.0, description="dropout rate of attention and feed-forward")

    @property
    def hidden(self) -> int:
        """Hidden features of the feed-forward block."""
        return self.d_ff or 3 * self.width

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.width // self.head_dim

    def constraint_violations(self) -> Iterator[Problem]:
        if self.attention == "none":
            return
        if self.width % self.head_dim:
            below = self.width // self.head_dim * self.head_dim
            choices = " or ".join(str(n) for n in (below, below + self.head_dim) if n)
            yield "width", f"{self.width} is not a multiple of head_dim = {self.head_dim}; use {choices}"
        if self.head_dim % 8:
            yield "head_dim", f"{self.head_dim} is not a multiple of 8, which axial rotary positions need"
        if self.attention == "neighborhood" and (self.kernel_size % 2 == 0 or self.kernel_size < 3):
            yield "kernel_size", f"{self.kernel_size} is not an odd number of at least 3"


class ModelRecipe(Table):
    """The network: image and patch size, levels from the outermost (most tokens) to the innermost, conditioning."""

    image_size: Pair = Field(description="pixels: one number, or [height, width]")
    channels: PositiveInt = Field(3, description="3 for colour, 1 for grey")
    patch_size: Pair = Field((4, 4), description="pixels of one token: one number, or [height, width]")
    levels: Annotated[tuple[LevelRecipe, ...], Listed, Field(min_length=1)] = Field(description="outermost first")
    num_classes: NonNegativeInt = Field(0, description="0: no class conditioning")
    mapping_width: PositiveInt = Field(256, description="features of the conditioning vector")
    mapping_depth: PositiveInt = Field(2, description="blocks of the mapping network")
    mapping_d_ff: PositiveInt | None = Field(None, description="default 3 x mapping_width")
    mapping_dropout: Probability = 0.0
    mapping_cond_dim: NonNegativeInt = Field(0, description="length of an extra conditioning vector, 0: none")
    feed_forward: FeedForward = Field("geglu", description="the feed-forward blocks' unit: gated, or a plain GELU")
    norm: Norm = Field(
        "rms", description="conditioned norms: a scale of the root mean square, or scale and shift (AdaLN)"
    )
    positions: Positions = Field(
        "rotary", description="turn queries and keys in each layer, or add sines to the tokens"
    )
    skip: Skip = Field("lerp", description="how the way up meets the skip connections: by a learned share, a sum, ...")
    attention_backend: AttentionBackend = Field(
        "auto", description="who computes neighborhood attention; weights do not depend on it"
    )

    @property
    def mapping_hidden(self) -> int:
        """Hidden features of the mapping network's blocks."""
        return self.mapping_d_ff or 3 * self.mapping_width

    def grid(self, level: int, image_size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return rows and columns of tokens at a level, for the recipe's image size or another."""
        height, width = image_size or self.image_size
        return height // self.patch_size[0] >> level, width // self.patch_size[1] >> level

    def size_problems(self, image_size: tuple[int, int]) -> Iterator[Problem]:
        """Yield what keeps the network from taking images of this size; `image_size` itself is one such size."""
        for axis, pixels, patch in zip(("height", "width"), image_size, self.patch_size, strict=True):
            unit = patch * 2 ** (len(self.levels) - 1)
            if pixels % unit:
                near = " or ".join(str(n) for n in (pixels // unit * unit, (pixels // unit + 1) * unit) if n)
                yield (
                    "image_size",
                    (
                        f"{axis} {pixels} is not a multiple of {unit} (patch {patch} x 2 for each of "
                        f"{len(self.levels) - 1} merges); use {near}"
                    ),
                )
                return
        for index, level in enumerate(self.levels):
            rows, columns = self.grid(index, image_size)
            if level.attention == "neighborhood" and level.kernel_size > min(rows, columns):
                yield (
                    f"levels[{index}].kernel_size",
                    (
                        f"{level.kernel_size} is larger than the level's {rows}x{columns} grid; "
                        "use a smaller kernel or global attention"
                    ),
                )
            if level.attention == "shifted-window" and (rows % level.window_size or columns % level.window_size):
                yield (
                    f"levels[{index}].window_size",
                    (f"{level.window_size} does not divide the level's {rows}x{columns} grid"),
                )

    def constraint_violations(self) -> Iterator[Problem]:
        if self.mapping_width % 2:
            yield "mapping_width", f"{self.mapping_width} is odd; Fourier features come in pairs"
        if self.positions == "additive" and self.levels[0].width % 4:
            yield "levels[0].width", f"{self.levels[0].width} is not a multiple of 4, which additive positions need"
        yield from self.size_problems(self.image_size)
