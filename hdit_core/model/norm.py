"""Adaptive RMS norm (HDiT paper, section 3.2), without mean subtraction and bias, and the adaptive layer norm of DiT.

Statistics are computed in at least float32. The backward pass is written out, since that of autograd takes twice as
long. On a CPU with a compiler both directions are fused kernels.
"""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hdit_core.devices import at_least_float32
from hdit_core.model.linear import Linear, constant, nan_init
from hdit_core.model.native.rowwise import RowwiseKernels, rowwise_kernels
from hdit_core.recipe.model import Norm

EPSILON = 1e-6


class ScaledRMSNorm(torch.autograd.Function):
    """y = scale * n with n = r x and r = (mean(x^2) + eps)^(-1/2); and x again, for the residual connection.

    The gradient of x is r (scale g - n mean(scale g n)) plus that of the residual; the gradient of scale is g n.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and x."""
        ctx.set_materialize_grads(False)
        if rows := _rows_for(x, scale):
            normal, inverse = rows.norm(x.contiguous(), scale.contiguous(), EPSILON)
        else:
            high = x.to(at_least_float32(x.dtype))
            length = torch.linalg.vector_norm(high, dim=-1, keepdim=True)
            inverse = torch.rsqrt(length.square() / x.shape[-1] + EPSILON)
            normal = (high * inverse).mul_(scale).to(x.dtype)
        ctx.save_for_backward(x, scale, inverse)
        return normal, x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, residual: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of x and scale."""
        x, scale, inverse = ctx.saved_tensors
        if grad is None:
            return residual, None
        if rows := _rows_for(x, scale, grad):
            residual = None if residual is None else residual.contiguous()
            return rows.norm_gradient(grad.contiguous(), residual, x.contiguous(), scale.contiguous(), inverse)
        grad = grad.to(inverse.dtype)  # otherwise 16-bit gradients would be rounded after each operation
        normal = x * inverse
        product = grad * normal
        grad_scale = product.sum_to_size(scale.shape).to(scale.dtype)
        along = (product * scale).mean(-1, keepdim=True)  # not in place: with one row per image, product is grad_scale
        grad_x = (grad * scale).addcmul_(normal, along, value=-1).mul_(inverse)
        return (grad_x if residual is None else grad_x.add_(residual)).to(x.dtype), grad_scale


def _rows_for(x: Tensor, scale: Tensor, *more: Tensor) -> RowwiseKernels | None:
    """Return the fused kernels if they support these tensors: one scale for all rows, or one per image."""
    per_image = scale.ndim == x.ndim > 1 and scale.shape == (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])
    return rowwise_kernels(x, scale, *more) if x.numel() and (scale.ndim == 1 or per_image) else None


def rms_norm(x: Float[Tensor, "*rows C"], scale: Float[Tensor, "*#rows C"]) -> Float[Tensor, "*rows C"]:
    """Return `scale * x / sqrt(mean(x^2) + eps)`, the mean taken over the features."""
    return ScaledRMSNorm.apply(x, scale)[0]


class RMSNorm(nn.Module):
    """RMS norm with a learned scale per feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(nan_init(width))
        self.initial = {"scale": constant(1.0)}

    def forward(self, x: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        """Return x, normalized."""
        return rms_norm(x, self.scale)


class AdaRMSNorm(nn.Module):
    """RMS norm with the scale `1 + W cond`; W is initialized to zero."""

    def __init__(self, width: int, mapping_width: int) -> None:
        super().__init__()
        self.modulation = Linear(mapping_width, width, constant(0.0))

    def forward(
        self, x: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W C"]]:
        """Return x normalized, and x itself for the residual connection.

        Passing x through adds its two gradients inside the backward pass of the norm, without another operation.
        """
        return ScaledRMSNorm.apply(x, self.scale(cond))

    def scale(self, cond: Float[Tensor, "B M"]) -> Float[Tensor, "B 1 1 C"]:
        """Return the scale of each image."""
        return rearrange(self.modulation(cond) + 1, "b c -> b 1 1 c")


class AdaLayerNorm(nn.Module):
    """Layer norm with the scale `1 + W cond` and the shift `V cond` (DiT, section 3.2; row G of table 5).

    W and V are initialized to zero. DiT's gate of the residual branch is left out, as in row G.
    """

    def __init__(self, width: int, mapping_width: int) -> None:
        super().__init__()
        self.modulation = Linear(mapping_width, 2 * width, constant(0.0))

    def forward(
        self, x: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W C"]]:
        """Return x normalized, and x itself, as `AdaRMSNorm` does."""
        scale, shift = rearrange(self.modulation(cond), "b (two c) -> two b 1 1 c", two=2)
        normal = F.layer_norm(x.to(at_least_float32(x.dtype)), x.shape[-1:], eps=EPSILON)
        return torch.addcmul(shift, normal, scale + 1).to(x.dtype), x


AdaNorm = AdaRMSNorm | AdaLayerNorm
ADA_NORMS: dict[Norm, Callable[[int, int], AdaNorm]] = {"rms": AdaRMSNorm, "layer": AdaLayerNorm}
"""Values of `model.norm`: constructors that take the width and the mapping width."""
