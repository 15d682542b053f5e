"""The Hourglass Diffusion Transformer (HDiT paper, arXiv 2401.11605, section 3, figure 3)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hdit_core.model.attention.global_attention import Operator, global_attention
from hdit_core.model.attention.neighborhood import neighborhood_attention
from hdit_core.model.attention.shifted_window import ShiftedWindows
from hdit_core.model.blocks import AttentionBlock, FeedForwardBlock, TransformerLayer
from hdit_core.model.conditioning import Conditioning
from hdit_core.model.geglu import ACTIVATIONS
from hdit_core.model.linear import constant
from hdit_core.model.norm import ADA_NORMS, RMSNorm
from hdit_core.model.rotary_embedding import (
    FREQUENCIES,
    AxialRotary,
    Rotation,
    RotationCache,
    coarser,
    grid_positions,
    sine_positions,
)
from hdit_core.model.skip_connection import SKIPS
from hdit_core.model.tokens import TokenMerge, TokenSplit
from hdit_core.randomness import stream
from hdit_core.recipe.model import AttentionBackend, LevelRecipe, ModelRecipe


def attention_operator(level: LevelRecipe, layer: int, backend: AttentionBackend = "auto") -> Operator | None:
    """Return the operator of a layer, or None if its level has no attention.

    Args:
        layer: the index of the layer in its level, counted through encoder and then decoder layers. Odd layers of
            shifted-window attention shift by half a window.
        backend: of neighborhood attention; "auto": the best one for the tensors' device.
    """
    shift = level.window_size // 2 if layer % 2 else 0
    operators: dict[str, Operator | None] = {
        "global": global_attention,
        "neighborhood": partial(neighborhood_attention, kernel_size=level.kernel_size, backend=backend),
        "shifted-window": ShiftedWindows(level.window_size, shift),
        "none": None,
    }
    return operators[level.attention]


def transformer_layer(level: LevelRecipe, recipe: ModelRecipe, index: int) -> TransformerLayer:
    """Return layer number `index` of a level, counted through its encoder layers and then its decoder layers."""
    operator = attention_operator(level, index, recipe.attention_backend)
    norms = [ADA_NORMS[recipe.norm](level.width, recipe.mapping_width) for _ in range(2)]
    attention = operator and AttentionBlock(norms[0], level.width, level.head_dim, operator, level.dropout)
    unit = ACTIVATIONS[recipe.feed_forward]
    return TransformerLayer(attention, FeedForwardBlock(norms[1], level.width, level.hidden, unit, level.dropout))


class HourglassTransformer(nn.Module):
    """The network F of the preconditioned denoiser: an encoder to fewer and wider tokens, and a decoder back.

    Its tensors are NaN until `initialize` or `load_state_dict` fills them. It computes in the dtype of its weights.

    Attributes:
        activation_checkpointing: number of levels, outermost first, whose activations are recomputed in the backward
            pass instead of saved; True: all, False: none. Gradients are bit-identical.
    """

    activation_checkpointing: bool | int

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        *outer, inner = recipe.levels
        widths = [level.width for level in recipe.levels]
        self.recipe = recipe
        self.activation_checkpointing = False
        self._last_rotations = RotationCache()

        self.conditioning = Conditioning(recipe)
        self.rotary = nn.ModuleDict(
            {
                str(index): AxialRotary(
                    level.heads, level.head_dim, level.attention == "global", FREQUENCIES[recipe.positions]
                )
                for index, level in enumerate(recipe.levels)
                if level.attention != "none"
            }
        )
        self.patch_in = TokenMerge(recipe.input_channels, widths[0], recipe.patch_size)
        self.down = nn.ModuleList(_layers(level, recipe, 0) for level in outer)
        self.merges = nn.ModuleList(TokenMerge(widths[i], widths[i + 1], (2, 2)) for i in range(len(outer)))
        self.middle = _layers(inner, recipe, 0)
        self.splits = nn.ModuleList(SKIPS[recipe.skip](widths[i + 1], widths[i]) for i in range(len(outer)))
        self.up = nn.ModuleList(_layers(level, recipe, level.depth) for level in outer)
        self.out_norm = RMSNorm(widths[0])
        self.patch_out = TokenSplit(widths[0], recipe.channels, recipe.patch_size, constant(0.0))

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        sigma: Float[Tensor, " B"],
        class_ids: Int64[Tensor, " B"] | None = None,
        augment_cond: Float[Tensor, "B 9"] | None = None,
        mapping_cond: Float[Tensor, "B E"] | None = None,
        condition: Float[Tensor, "B K H W"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """Return the network's raw output.

        Args:
            x: noised images, already scaled by c_in. Sizes other than the recipe's are allowed if
                `ModelRecipe.size_problems` yields nothing.
            sigma: noise level of each image, > 0; the network forms its time input itself.
            class_ids: class of each image, `num_classes` for none; required if and only if the network has classes.
            augment_cond: augmentation of each image (nine numbers, see `data/loader/augment.py`); None: zeros.
            mapping_cond: the extra conditioning vector, E = `mapping_cond_dim`; required if and only if that is not 0.
                Zeros for none.
            condition: condition image in [-1, 1], K = `condition_channels`; required if and only if that is not 0.
                Zeros for none.

        Raises:
            ValueError: the size does not fit, or conditioning is missing, of another shape or unknown to the network.
        """
        height, width = x.shape[-2:]
        if (height, width) != self.recipe.image_size:
            self._check_size(height, width)
        dtype = self.patch_in.proj.weight.dtype
        cond = self.conditioning(sigma, class_ids, augment_cond, mapping_cond)
        seen = self._with_condition(x.to(dtype), condition)
        seen = seen + self.recipe.input_offset if self.recipe.input_offset else seen
        tokens = self._add_positions(self.patch_in(rearrange(seen, "b c h w -> b h w c")))
        tokens = self._encode_decode(tokens, cond, self._rotations(height, width))
        images = self.patch_out(self.out_norm(tokens))
        return rearrange(images, "b h w c -> b c h w").to(x.dtype)

    def _encode_decode(
        self, tokens: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"], rotations: list[Rotation | None]
    ) -> Float[Tensor, "B H W C"]:
        # encoder: each level, then fewer and wider tokens
        skips = []
        for level, (layers, merge) in enumerate(zip(self.down, self.merges, strict=True)):
            tokens = self._run(level, layers, tokens, cond, rotations[level])
            skips.append(tokens)
            tokens = merge(tokens)

        tokens = self._run(len(skips), self.middle, tokens, cond, rotations[-1])

        # decoder: more and narrower tokens, the skip connection, then the level
        for level, (layers, split) in reversed(list(enumerate(zip(self.up, self.splits, strict=True)))):
            tokens = split(tokens, skips.pop())
            tokens = self._run(level, layers, tokens, cond, rotations[level])
        return tokens

    def compile_layers(self, **options: Any) -> None:
        """Compile each layer as a whole with `torch.compile`; equal layers share one compilation.

        What depends only on the grid is not compiled: angles are computed outside, masks inside custom operators.

        Args:
            options: of `torch.compile`.
        """
        for module in self.modules():
            if isinstance(module, TransformerLayer):
                module.compile(fullgraph=True, **options)

    def _with_condition(self, x: Float[Tensor, "B C H W"], condition: Tensor | None) -> Float[Tensor, "B C2 H W"]:
        """Return the noised images with the scaled condition images as further channels."""
        scales = self.recipe.condition_scales
        if condition is None and not scales:
            return x
        expected = (x.shape[0], len(scales), *x.shape[2:])
        if condition is None or not scales or tuple(condition.shape) != expected:
            raise ValueError(_condition_problem(condition, expected))
        factors = torch.cat([x.new_full((1,), scale) for scale in scales])  # a copy of a list would wait for a GPU
        return torch.cat([x, condition.to(x.dtype) * rearrange(factors, "k -> k 1 1")], dim=1)

    def _add_positions(self, tokens: Tensor) -> Tensor:
        """Return the tokens with additive position embeddings, unless positions are rotary."""
        if self.recipe.positions == "rotary":
            return tokens
        _, height, width, features = tokens.shape
        return (tokens + sine_positions(height, width, features, tokens.device)).to(tokens.dtype)

    def _rotations(self, height: int, width: int) -> list[Rotation | None]:
        """Return the rotations of each level, outermost first, cached for all layers and steps."""
        frequencies = [rotary.get_buffer("frequencies") for rotary in self.rotary.values()]
        return self._last_rotations.get((height, width), frequencies, lambda: self._new_rotations(height, width))

    def _new_rotations(self, height: int, width: int) -> list[Rotation | None]:
        positions = grid_positions(*self.recipe.grid(0, (height, width)), self.patch_in.proj.weight.device)
        rotations: list[Rotation | None] = []
        for index, level in enumerate(self.recipe.levels):
            positions = coarser(positions) if index else positions
            rotations.append(self.rotary[str(index)](positions) if level.attention != "none" else None)
        return rotations

    def _run(self, level: int, layers: nn.Module, x: Tensor, cond: Tensor, rotation: Rotation | None) -> Tensor:
        recompute = self.activation_checkpointing is True or level < self.activation_checkpointing
        for layer in layers.children():
            if recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, cond, rotation, use_reentrant=False)
            else:
                x = layer(x, cond, rotation)
        return x

    def _check_size(self, height: int, width: int) -> None:
        if problems := list(self.recipe.size_problems((height, width))):
            raise ValueError(f"images of {height}x{width} do not fit the network: {': '.join(problems[0])}")


def _condition_problem(condition: Tensor | None, expected: tuple[int, ...]) -> str:
    if condition is None:
        return f"the network is conditioned on images of {expected[1]} channels; expected a tensor, found None"
    if not expected[1]:
        return "condition: expected None, since the network's condition_channels is 0; found a tensor"
    return f"condition: expected a tensor of shape {expected}, found {tuple(condition.shape)}"


def _layers(level: LevelRecipe, recipe: ModelRecipe, first: int) -> nn.ModuleList:
    return nn.ModuleList(transformer_layer(level, recipe, first + i) for i in range(level.depth))


@torch.no_grad()
def initialize(network: nn.Module, seed: int, put: Callable[[Tensor, Tensor], object] = Tensor.copy_) -> None:
    """Fill every parameter and buffer from its own random stream, named after the tensor.

    Values thus do not depend on the order of modules, the device or the dtype. The initial output is zero.

    Args:
        network: on any device but meta (call `to_empty` first).
        put: copies values from a CPU tensor into a parameter or buffer, which may be sharded.
    """
    for path, module in network.named_modules():
        for key, initial in getattr(module, "initial", {}).items():
            name, tensor = f"{path}.{key}".lstrip("."), getattr(module, key)
            put(tensor, torch.from_numpy(initial(stream(seed, f"init {name}", 0), tensor.shape)))
