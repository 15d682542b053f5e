"""Root-mean-square normalisation (HDiT paper, section 3.2): no mean is taken off and nothing is added.

Statistics are taken in float32 at least, whatever the dtype of the activations; only the factor is rounded to it.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdit_core.model.initial import Linear, constant, unset

EPSILON = 1e-6


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which statistics are taken: float32, or float64 where the activations are."""
    return torch.promote_types(dtype, torch.float32)


def rms_norm(x: Float[Tensor, "*rows C"], scale: Float[Tensor, "*#rows C"]) -> Float[Tensor, "*rows C"]:
    """Return `scale * x / sqrt(mean(x^2) + eps)`, the mean taken over the features."""
    high = x.to(wide(x.dtype))
    inverse = torch.rsqrt(high.square().mean(-1, keepdim=True) + EPSILON)
    return x * (scale.to(high.dtype) * inverse).to(x.dtype)


def cosine_scaled(x: Float[Tensor, "*rows N D"], scale: Float[Tensor, " N"]) -> Float[Tensor, "*rows N D"]:
    """Give queries or keys the length `sqrt(scale)`, so that their product is `scale * cos` (hdit-facts 4.7).

    Args:
        x: one row of D features for each head.
        scale: the learned logit scale of each head, stored as it is: a negative one gives NaN.
    """
    high = x.to(wide(x.dtype))
    inverse = torch.rsqrt(high.square().sum(-1, keepdim=True) + EPSILON)
    return x * (rearrange(scale.to(high.dtype).sqrt(), "n -> n 1") * inverse).to(x.dtype)


class RMSNorm(nn.Module):
    """Normalisation with a learned scale for each feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(unset(width))
        self.initial = {"scale": constant(1.0)}

    def forward(self, x: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        return rms_norm(x, self.scale)


class AdaRMSNorm(nn.Module):
    """Normalisation whose scale, `1 + W cond`, comes from the conditioning; W begins at zero (hdit-facts 4.8)."""

    def __init__(self, width: int, mapping_width: int) -> None:
        super().__init__()
        self.modulation = Linear(mapping_width, width, constant(0.0))

    def forward(self, x: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"]) -> Float[Tensor, "B H W C"]:
        return rms_norm(x, rearrange(self.modulation(cond) + 1, "b c -> b 1 1 c"))
