"""Root-mean-square normalisation (HDiT paper, section 3.2): no mean is taken off and nothing is added.

Statistics are taken in float32 at least, whatever the dtype of the activations. The backward pass is written out: these
small operations stand between all matrix products, and autograd's own takes twice the time on a CPU.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hdit_core.model.initial import Linear, constant, unset

EPSILON = 1e-6


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which statistics are taken: float32, or float64 where the activations are."""
    return torch.promote_types(dtype, torch.float32)


class Normalised(torch.autograd.Function):
    """y = scale * n with n = r x and r = (mean(x^2) + eps)^(-1/2).

    The gradient of x is r (scale g - n mean(scale g n)), and that of scale is g n.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        high = x.to(wide(x.dtype))
        length = torch.linalg.vector_norm(high, dim=-1, keepdim=True)
        inverse = torch.rsqrt(length.square() / x.shape[-1] + EPSILON)
        ctx.save_for_backward(x, scale, inverse)
        return (high * inverse).mul_(scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, scale, inverse = ctx.saved_tensors
        grad = grad.to(inverse.dtype)  # else 16-bit gradients and scales would be rounded at every step of this
        normal = x * inverse
        product = grad * normal
        grad_scale = product.sum_to_size(scale.shape).to(scale.dtype)
        along = product.mul_(scale).mean(-1, keepdim=True)
        grad_x = (grad * scale).addcmul_(normal, along, value=-1).mul_(inverse)
        return grad_x.to(x.dtype), grad_scale


def rms_norm(x: Float[Tensor, "*rows C"], scale: Float[Tensor, "*#rows C"]) -> Float[Tensor, "*rows C"]:
    """Return `scale * x / sqrt(mean(x^2) + eps)`, the mean taken over the features."""
    return Normalised.apply(x, scale)


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
