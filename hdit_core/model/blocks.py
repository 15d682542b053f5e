"""The two blocks of a transformer layer (HDiT paper, section 3.2, figure 4; hdit-facts 4.8)."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdit_core.model.attention import Operator
from hdit_core.model.gate import Unit, gated
from hdit_core.model.initial import Linear, constant, unset
from hdit_core.model.native.rows import rows_for
from hdit_core.model.norm import EPSILON, AdaNorm, AdaRMSNorm
from hdit_core.model.position import Rotation
from hdit_core.model.similarity import cosine_rotary
from hdit_core.model.window import ShiftedWindows

INITIAL_LOGIT_SCALE = 10.0


class AttentionBlock(nn.Module):
    """Cosine-similarity attention with rotary positions; which tokens attend to which, the operator says."""

    def __init__(self, norm: AdaNorm, width: int, head_dim: int, operator: Operator, dropout: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.operator = operator
        self.norm = norm
        self.qkv = Linear(width, 3 * width)
        self.scale = nn.Parameter(unset(width // head_dim))
        self.dropout = nn.Dropout(dropout)
        self.out = Linear(width, width, constant(0.0))
        self.initial = {"scale": constant(INITIAL_LOGIT_SCALE)}

    def forward(
        self, x: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"], rotation: Rotation | None
    ) -> Float[Tensor, "B H W C"]:
        assert rotation is not None
        normal, x = self.norm(x, cond)
        if isinstance(self.operator, ShiftedWindows) and not torch.compiler.is_compiling():
            return self._in_windows(self.operator, normal, rotation).add_(x)
        attended = self.operator(*self._queries_keys_values(normal, rotation))
        return self._project(attended).add_(x)

    def _in_windows(
        self, windows: ShiftedWindows, normal: Float[Tensor, "B H W C"], rotation: Rotation
    ) -> Float[Tensor, "B H W C"]:
        """Do all but the sum with the tokens window by window."""
        _, height, width, _ = normal.shape
        q, k, v = self._queries_keys_values(windows.arrange(normal), windows.arranged(rotation))
        return windows.restore(self._project(windows.within(q, k, v, height, width)), height, width)

    def _queries_keys_values(
        self, normal: Float[Tensor, "B H W C"], rotation: Rotation
    ) -> tuple[Tensor, Tensor, Tensor]:
        qkv = rearrange(self.qkv(normal), "b h w (t n d) -> b h w t n d", t=3, d=self.head_dim)
        return cosine_rotary(qkv, self.scale, rotation)

    def _project(self, attended: Float[Tensor, "B H W N D"]) -> Float[Tensor, "B H W C"]:
        return self.out(self.dropout(rearrange(attended, "b h w n d -> b h w (n d)")))


class FeedForwardBlock(nn.Module):
    """A feed-forward block, gated or not.

    Args:
        unit: the unit, and how many features it takes for each of the `hidden` ones.
    """

    def __init__(self, norm: AdaNorm, width: int, hidden: int, unit: tuple[Unit, int], dropout: float) -> None:
        super().__init__()
        self.norm = norm
        self.unit, taken = unit
        self.up = Linear(width, taken * hidden)
        self.dropout = nn.Dropout(dropout)
        self.down = Linear(hidden, width, constant(0.0))

    def forward(self, x: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"]) -> Float[Tensor, "B H W C"]:
        if (whole := self._in_one_pass(x, cond)) is not None:
            return whole
        normal, x = self.norm(x, cond)
        return self.down(self.dropout(self.unit(self.up(normal)))).add_(x)

    def _in_one_pass(self, x: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"]) -> Float[Tensor, "B H W C"] | None:
        """Return the block's result with the same bits but fewer trips to memory, where no gradient is asked."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return None
        drops = self.training and self.dropout.p > 0
        if drops or self.unit is not gated or not isinstance(self.norm, AdaRMSNorm) or _is_watched(self):
            return None
        matrices = (self.up.weight, self.down.weight)
        if (rows := rows_for(x, cond, *matrices)) is None:
            return None
        return rows.feed_forward(x.contiguous(), self.norm.scale(cond).contiguous(), *matrices, EPSILON)


def _is_watched(block: FeedForwardBlock) -> bool:
    """Return whether somebody looks at what goes through a block's parts, or has put others in their place."""
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in block.children())
    counted = torch._C._len_torch_dispatch_stack() > 0  # such as torch's counter of FLOPs
    return hooked or counted or type(block.up) is not Linear or type(block.down) is not Linear


class TransformerLayer(nn.Module):
    """Attention, where the level has any, then feed-forward."""

    def __init__(self, attention: AttentionBlock | None, feed_forward: FeedForwardBlock) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = feed_forward

    def forward(
        self, x: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"], rotation: Rotation | None
    ) -> Float[Tensor, "B H W C"]:
        if self.attention is not None:
            x = self.attention(x, cond, rotation)
        return self.feed_forward(x, cond)
