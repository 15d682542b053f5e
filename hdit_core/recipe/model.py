"""`[model]`: the shape of the network (HDiT paper, section 3 and table 7)."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from hdit_core.recipe.base_table import (
    Listed,
    NonNegativeInt,
    Pair,
    PositiveFloats,
    PositiveInt,
    Probability,
    Problem,
    Table,
)

Attention = Literal["global", "neighborhood", "shifted-window", "none"]
AttentionBackend = Literal["auto", "native", "natten", "triton", "flex", "tiled"]
FeedForward = Literal["geglu", "gelu"]
Norm = Literal["rms", "layer"]
Positions = Literal["rotary", "additive"]
TimeInput = Literal["log-sigma", "t"]
Skip = Literal["lerp", "add", "concat"]
Depth = Annotated[int, Field(gt=0, le=1000)]


class LevelRecipe(Table):
    """One level of the hourglass; every level but the innermost is used in both encoder and decoder."""

    depth: Depth = Field(description="transformer layers, in the encoder and again in the decoder")
    width: PositiveInt = Field(description="features per token")
    attention: Attention = Field(
        description="what a token attends to: all tokens, the k x k neighborhood around it, its window, or nothing"
    )
    head_dim: PositiveInt = Field(
        64, description="features per attention head, a multiple of 8; width is a multiple of it"
    )
    kernel_size: PositiveInt = Field(
        7, description="neighborhood: side of the neighborhood in tokens, odd and at least 3"
    )
    window_size: PositiveInt = Field(8, description="shifted-window: side of the window in tokens")
    d_ff: PositiveInt | None = Field(None, description="hidden features of the feed-forward block. Default: 3 x width")
    dropout: Probability = Field(0.0, description="dropout rate in attention and feed-forward blocks")

    @property
    def hidden(self) -> int:
        """Hidden features of the feed-forward block."""
        return self.d_ff or 3 * self.width

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.width // self.head_dim

    def constraint_violations(self) -> Iterator[Problem]:
        """Yield the violated constraints between keys."""
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

    image_size: Pair = Field(description="image size in pixels: one number, or [height, width]")
    channels: PositiveInt = Field(3, description="image channels: 3 for color, 1 for grey")
    condition_channels: NonNegativeInt = Field(
        0,
        description="channels of the condition image, which is concatenated to the network's input; 0: none",
    )
    condition_scale: PositiveFloats = Field(
        (1.0,),
        description="factor on the condition image before it is concatenated (c_in does not apply to it): one number, "
        "or one per condition channel",
    )
    input_offset: float = Field(
        0.0,
        description="number added to the network's input, image and condition: 1 for weights trained on pixels in "
        "[0, 1] whose first layer was halved to convert them",
    )
    patch_size: Pair = Field((4, 4), description="pixels per token: one number, or [height, width]")
    levels: Annotated[tuple[LevelRecipe, ...], Listed, Field(min_length=1)] = Field(
        description="levels of the hourglass, outermost (most tokens) first"
    )
    num_classes: NonNegativeInt = Field(0, description="number of classes; 0: unconditional")
    time: TimeInput = Field(
        "log-sigma", description="time input of the network: log-sigma, ln(sigma) / 4 (EDM), or t, 1 / (1 + sigma)"
    )
    mapping_width: PositiveInt = Field(256, description="features of the conditioning vector, an even number")
    mapping_depth: Depth = Field(2, description="blocks of the mapping network")
    mapping_d_ff: PositiveInt | None = Field(
        None, description="hidden features of the mapping network. Default: 3 x mapping_width"
    )
    mapping_dropout: Probability = Field(0.0, description="dropout rate in the mapping network")
    mapping_cond_dim: NonNegativeInt = Field(
        0,
        description="length of an extra conditioning vector for each image, such as attributes; 0: none",
    )
    feed_forward: FeedForward = Field(
        "geglu", description="activation of the feed-forward blocks: gated (GEGLU) or plain GELU"
    )
    norm: Norm = Field(
        "rms",
        description="conditioned norms: RMSNorm with a scale (AdaRMSNorm), or LayerNorm with scale and shift (AdaLN)",
    )
    positions: Positions = Field(
        "rotary", description="position embedding: axial RoPE in each layer, or sinusoids added to the tokens"
    )
    skip: Skip = Field("lerp", description="skip connections: learned lerp, addition or concatenation")
    attention_backend: AttentionBackend = Field(
        "auto", description="kernel of neighborhood attention; does not affect the weights"
    )

    @property
    def input_channels(self) -> int:
        """Channels of the network's input: the noised image's and the condition image's."""
        return self.channels + self.condition_channels

    @property
    def condition_scales(self) -> tuple[float, ...]:
        """The factor on each channel of the condition image."""
        scales = self.condition_scale
        return scales * self.condition_channels if len(scales) == 1 else scales

    @property
    def mapping_hidden(self) -> int:
        """Hidden features of the mapping network's blocks."""
        return self.mapping_d_ff or 3 * self.mapping_width

    def grid(self, level: int, image_size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return the rows and columns of tokens at a level, for the recipe's image size or another one."""
        height, width = image_size or self.image_size
        return height // self.patch_size[0] >> level, width // self.patch_size[1] >> level

    def size_problems(self, image_size: tuple[int, int]) -> Iterator[Problem]:
        """Yield the constraints that images of this size violate; also used for `image_size` itself."""
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
        """Yield the violated constraints between keys."""
        if self.mapping_width % 2:
            yield "mapping_width", f"{self.mapping_width} is odd; Fourier features come in pairs"
        if self.positions == "additive" and self.levels[0].width % 4:
            yield "levels[0].width", f"{self.levels[0].width} is not a multiple of 4, which additive positions need"
        scales = list(self.condition_scale)
        if len(scales) not in (1, self.condition_channels):
            yield (
                "condition_scale",
                f"{scales} are {len(scales)} numbers for condition_channels = {self.condition_channels}; give one "
                "number, or one per channel",
            )
        elif scales != [1] and not self.condition_channels:
            yield "condition_scale", f"{scales} has no effect with condition_channels = 0"
        yield from self.size_problems(self.image_size)
