"""Root-mean-square normalisation (HDiT paper, section 3.2): no mean is taken off and nothing is added. Beside it, the
layer norm of DiT, which does both.

Statistics are taken in float32 at least, whatever the dtype of the activations. The backward pass is written out: these
small operations stand between all matrix products, and autograd's own takes twice the time. On a CPU with a compiler
both are one pass of `native/rows.cpp`.
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


class Normalised(torch.autograd.Function):
    """y = scale * n with n = r x and r = (mean(x^2) + eps)^(-1/2); and x again, for what goes past the norm.

    The gradient of x is r (scale g - n mean(scale g n)), plus that of what went past, and that of scale is g n.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
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
    def backward(ctx: Any, grad: Tensor | None, beside: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        x, scale, inverse = ctx.saved_tensors
        if grad is None:
            return beside, None
        if rows := _rows_for(x, scale, grad):
            beside = None if beside is None else beside.contiguous()
            return rows.norm_gradient(grad.contiguous(), beside, x.contiguous(), scale.contiguous(), inverse)
        grad = grad.to(inverse.dtype)  # else 16-bit gradients and scales would be rounded at every step of this
        normal = x * inverse
        product = grad * normal
        grad_scale = product.sum_to_size(scale.shape).to(scale.dtype)
        along = (product * scale).mean(-1, keepdim=True)  # not in place: with one row an image, product is grad_scale
        grad_x = (grad * scale).addcmul_(normal, along, value=-1).mul_(inverse)
        return (grad_x if beside is None else grad_x.add_(beside)).to(x.dtype), grad_scale


def _rows_for(x: Tensor, scale: Tensor, *more: Tensor) -> RowwiseKernels | None:
    """Return the compiled passes where they can take these: one scale for all rows, or one for each image."""
    one_an_image = scale.ndim == x.ndim > 1 and scale.shape == (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])
    return rowwise_kernels(x, scale, *more) if x.numel() and (scale.ndim == 1 or one_an_image) else None


def rms_norm(x: Float[Tensor, "*rows C"], scale: Float[Tensor, "*#rows C"]) -> Float[Tensor, "*rows C"]:
    """Return `scale * x / sqrt(mean(x^2) + eps)`, the mean taken over the features."""
    return Normalised.apply(x, scale)[0]


class RMSNorm(nn.Module):
    """Normalisation with a learned scale for each feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(nan_init(width))
        self.initial = {"scale": constant(1.0)}

    def forward(self, x: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        return rms_norm(x, self.scale)


class AdaRMSNorm(nn.Module):
    """Normalisation whose scale, `1 + W cond`, comes from the conditioning; W begins at zero (hdit-facts 4.8)."""

    def __init__(self, width: int, mapping_width: int) -> None:
        super().__init__()
        self.modulation = Linear(mapping_width, width, constant(0.0))

    def forward(
        self, x: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W C"]]:
        """Return x normalised, and x as it was, for the sum behind the branch.

        It is handed through so that its two gradients are added up where one of them arises, and not once more.
        """
        return Normalised.apply(x, self.scale(cond))

    def scale(self, cond: Float[Tensor, "B M"]) -> Float[Tensor, "B 1 1 C"]:
        """Return each image's scale."""
        return rearrange(self.modulation(cond) + 1, "b c -> b 1 1 c")


class AdaLayerNorm(nn.Module):
    """Layer norm whose scale, `1 + W cond`, and shift, `V cond`, come from the conditioning (DiT, section 3.2; row G).

    W and V begin at zero. DiT's gate of the branch is not part of it, as in row G of table 5.
    """

    def __init__(self, width: int, mapping_width: int) -> None:
        super().__init__()
        self.modulation = Linear(mapping_width, 2 * width, constant(0.0))

    def forward(
        self, x: Float[Tensor, "B H W C"], cond: Float[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W C"]]:
        """Return x normalised, and x as it was, as `AdaRMSNorm` does."""
        scale, shift = rearrange(self.modulation(cond), "b (two c) -> two b 1 1 c", two=2)
        normal = F.layer_norm(x.to(at_least_float32(x.dtype)), x.shape[-1:], eps=EPSILON)
        return torch.addcmul(shift, normal, scale + 1).to(x.dtype), x


AdaNorm = AdaRMSNorm | AdaLayerNorm
ADA_NORMS: dict[Norm, Callable[[int, int], AdaNorm]] = {"rms": AdaRMSNorm, "layer": AdaLayerNorm}
"""What a recipe can ask for as `model.norm`: functions of the width and the mapping network's."""
