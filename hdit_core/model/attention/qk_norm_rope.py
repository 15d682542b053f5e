"""Cosine-similarity QK norm and axial RoPE, fused into one autograd function (HDiT paper, sections 3.2 and 3.3).

Queries and keys are scaled to the length sqrt(scale), so that logits are `scale * cos(angle between them)`, and are
then rotated by their positions. The backward pass is written out: left to autograd, the two steps take a fifth of the
network's time. On a CPU with a compiler both directions are fused kernels of `native/rows.cpp`.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from hdit_core.devices import at_least_float32
from hdit_core.model.native.rowwise import rowwise_kernels
from hdit_core.model.norm import EPSILON
from hdit_core.model.rotary_embedding import Rotation


def rotate(x: Tensor, rotation: Rotation, direction: int) -> Tensor:
    """Return x rotated by the angles (`direction` = 1) or by their negatives (-1), as a new tensor.

    Features i and i + D/4, i < D/4, are the two coordinates of a plane; the second half of D is not rotated.
    """
    cos, sin = rotation
    first, second = (slice(part * sin.shape[-1], (part + 1) * sin.shape[-1]) for part in (0, 1))
    result = x * cos
    result[..., first].addcmul_(x[..., second], sin, value=-direction)
    result[..., second].addcmul_(x[..., first], sin, value=direction)
    return result


class CosineQKNormRope(torch.autograd.Function):
    """y = R n with n = sqrt(s) r x and r = (|x|^2 + eps)^(-1/2), for queries and keys x, in at least float32.

    With d = n . R^-1 g, the gradient of x is sqrt(s) r R^-1 g - r^2 d x, and that of s is the sum of d / 2s. Values are
    passed through, so that the gradient of `qkv` is written as one tensor.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, scale: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rotated, normalized queries and keys, and the values, each `[B, H, W, N, D]`."""
        root = scale.to(at_least_float32(scale.dtype)).sqrt()
        x, value = qkv[:, :, :, :2], qkv[:, :, :, 2]
        if rows := rowwise_kernels(qkv, root, cos, sin):
            qkv = qkv.contiguous()
            both, inverse = rows.qk_norm_rope(qkv, root, cos, sin, EPSILON)
        else:
            high = x.to(at_least_float32(x.dtype))
            length = torch.linalg.vector_norm(high, dim=-1, keepdim=True)
            inverse = torch.rsqrt(length.square() + EPSILON)
            both = rotate(high * (inverse * root[:, None]), _for_both(cos, sin), 1).to(x.dtype)
        ctx.save_for_backward(qkv, scale, root, inverse, cos, sin)
        query, key = both.unbind(3)
        return query, key, value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the gradients of `qkv` and of the scale."""
        qkv, scale, root, inverse, cos, sin = ctx.saved_tensors
        if rows := rowwise_kernels(qkv, root, cos, sin, *grads):
            query, key, value = (grad if grad.stride(-1) == 1 else grad.contiguous() for grad in grads)
            grad_qkv, along_all = rows.qk_norm_rope_gradient((query, key, value), qkv, root, cos, sin, inverse)
        else:
            x, factor = qkv[:, :, :, :2], inverse * root[:, None]
            back = rotate(torch.stack(grads[:2], dim=3).to(inverse.dtype), _for_both(cos, sin), -1)
            along = (back * x).sum(-1, keepdim=True).mul_(factor)
            along_all = rearrange(along, "... n 1 -> (...) n").sum(0)
            grad_x = back.mul_(factor).addcmul_(x, along.mul_(inverse.square()), value=-1)
            grad_qkv = torch.cat([grad_x.to(qkv.dtype), grads[2].unsqueeze(3)], dim=3)
        return grad_qkv, (along_all / (2 * scale)).to(scale.dtype), None, None


def _for_both(cos: Tensor, sin: Tensor) -> Rotation:
    return rearrange(cos, "h w n d -> h w 1 n d"), rearrange(sin, "h w n d -> h w 1 n d")


def cosine_qk_norm_rope(
    qkv: Float[Tensor, "B H W 3 N D"], scale: Float[Tensor, " N"], rotation: Rotation
) -> tuple[Float[Tensor, "B H W N D"], Float[Tensor, "B H W N D"], Float[Tensor, "B H W N D"]]:
    """Return queries and keys scaled to the length sqrt(scale) and rotated by their positions, and unchanged values.

    Args:
        qkv: queries, keys and values of each token.
        scale: the learned logit scale of each head, not its logarithm: a negative one gives NaN.
        rotation: the level's cosines and sines, see `position.AxialRotary`.

    Returns:
        Queries, keys and values; they may be views of shared memory.
    """
    return CosineQKNormRope.apply(qkv, scale, *rotation)
