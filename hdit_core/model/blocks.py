"""The two blocks of a transformer layer (HDiT paper, section 3.2, figure 4)."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdit_core.model.attention.global_attention import Operator, global_attention
from hdit_core.model.attention.qk_norm_rope import cosine_qk_norm_rope
from hdit_core.model.attention.shifted_window import ShiftedWindows, one_window
from hdit_core.model.fused_blocks import can_fuse, fused_feed_forward, fused_window_attention
from hdit_core.model.geglu import Activation, geglu
from hdit_core.model.linear import Linear, constant, nan_init
from hdit_core.model.native.rowwise import rowwise_kernels
from hdit_core.model.native.workspace import MAX_GLOBAL_TOKENS, MAX_WINDOW_TOKENS
from hdit_core.model.norm import AdaNorm, AdaRMSNorm
from hdit_core.model.rotary_embedding import Rotation

INITIAL_LOGIT_SCALE = 10.0


class AttentionBlock(nn.Module):
    """Cosine-similarity attention with rotary position embedding; the operator defines which tokens attend to which."""

    def __init__(self, norm: AdaNorm, width: int, head_dim: int, operator: Operator, dropout: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.operator = operator
        self.norm = norm
        self.qkv = Linear(width, 3 * width)
        self.scale = nn.Parameter(nan_init(width // head_dim))
        self.dropout = nn.Dropout(dropout)
        self.out = Linear(width, width, constant(0.0))
        self.initial = {"scale": constant(INITIAL_LOGIT_SCALE)}

    def forward(
        self, x: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"], rotation: Rotation | None
    ) -> Float[Tensor, "B H W C"]:
        """Return x after the block, residual included."""
        assert rotation is not None
        if (fused := self._fused(x, cond, rotation)) is not None:
            return fused
        normal, x = self.norm(x, cond)
        if isinstance(self.operator, ShiftedWindows) and not torch.compiler.is_compiling():
            return self._in_windows(self.operator, normal, rotation).add_(x)
        attended = self.operator(*self._queries_keys_values(normal, rotation))
        return self._project(attended).add_(x)

    def _fused(
        self, x: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"], rotation: Rotation
    ) -> Float[Tensor, "B H W C"] | None:
        """Return the result of the fused kernel, or None if it does not apply."""
        matrices = (self.qkv.weight, self.out.weight)
        if rowwise_kernels(x, cond, *matrices) is None or not self._has_windows(x):
            return None
        if not can_fuse(self, x, *matrices):
            return None
        assert isinstance(self.norm, AdaRMSNorm)
        windows = self.operator
        layout = windows.layout(x, rotation) if isinstance(windows, ShiftedWindows) else one_window(x, rotation)
        scale = self.norm.scale(cond)
        return fused_window_attention(x, scale, self.qkv.weight, self.scale, self.out.weight, layout)

    def _has_windows(self, x: Float[Tensor, "B H W C"]) -> bool:
        """Return whether attention is in windows, or in training has few enough tokens to treat the grid as one window.

        Sampling does not do the latter: all threads share an image, and its bits must not depend on the batch size.
        """
        if isinstance(self.operator, ShiftedWindows):
            return self.operator.window_size**2 <= MAX_WINDOW_TOKENS
        is_small = self.operator is global_attention and x.shape[1] * x.shape[2] <= MAX_GLOBAL_TOKENS
        return is_small and torch.is_grad_enabled() and len(x) >= torch.get_num_threads()

    def _in_windows(
        self, windows: ShiftedWindows, normal: Float[Tensor, "B H W C"], rotation: Rotation
    ) -> Float[Tensor, "B H W C"]:
        """Return the block's output without the residual, computed in window order."""
        _, height, width, _ = normal.shape
        q, k, v = self._queries_keys_values(windows.arrange(normal), windows.arranged(rotation))
        return windows.restore(self._project(windows.within(q, k, v, height, width)), height, width)

    def _queries_keys_values(
        self, normal: Float[Tensor, "B H W C"], rotation: Rotation
    ) -> tuple[Tensor, Tensor, Tensor]:
        qkv = rearrange(self.qkv(normal), "b h w (t n d) -> b h w t n d", t=3, d=self.head_dim)
        return cosine_qk_norm_rope(qkv, self.scale, rotation)

    def _project(self, attended: Float[Tensor, "B H W N D"]) -> Float[Tensor, "B H W C"]:
        return self.out(self.dropout(rearrange(attended, "b h w n d -> b h w (n d)")))


class FeedForwardBlock(nn.Module):
    """A feed-forward block, gated or not.

    Args:
        unit: the activation, and its number of input features per hidden feature.
    """

    def __init__(self, norm: AdaNorm, width: int, hidden: int, unit: tuple[Activation, int], dropout: float) -> None:
        super().__init__()
        self.norm = norm
        self.unit, inputs_per_output = unit
        self.up = Linear(width, inputs_per_output * hidden)
        self.dropout = nn.Dropout(dropout)
        self.down = Linear(hidden, width, constant(0.0))

    def forward(self, x: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"]) -> Float[Tensor, "B H W C"]:
        """Return x after the block, residual included."""
        if (fused := self._fused(x, cond)) is not None:
            return fused
        normal, x = self.norm(x, cond)
        return self.down(self.dropout(self.unit(self.up(normal)))).add_(x)

    def _fused(self, x: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"]) -> Float[Tensor, "B H W C"] | None:
        """Return the result of the fused kernel, or None if it does not apply."""
        matrices = (self.up.weight, self.down.weight)
        if self.unit is not geglu or rowwise_kernels(x, cond, *matrices) is None or not can_fuse(self, x, *matrices):
            return None
        assert isinstance(self.norm, AdaRMSNorm)
        return fused_feed_forward(x, self.norm.scale(cond), *matrices)


class TransformerLayer(nn.Module):
    """Attention, if the level has it, and feed-forward."""

    def __init__(self, attention: AttentionBlock | None, feed_forward: FeedForwardBlock) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = feed_forward

    def forward(
        self, x: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"], rotation: Rotation | None
    ) -> Float[Tensor, "B H W C"]:
        """Return x after both blocks."""
        if self.attention is not None:
            x = self.attention(x, cond, rotation)
        return self.feed_forward(x, cond)
