"""What becomes of queries and keys before they meet: one length for all, and a turn by where the token is.

So that their product is `scale * cos(angle between them)`, seen from where they stand (hdit-facts 4.6 and 4.7). Both
steps are one function with its backward pass written out, since they are a fifth of the network's time otherwise.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from hdit_core.model.norm import EPSILON, wide
from hdit_core.model.position import Rotation


def turned(x: Tensor, rotation: Rotation, way: int) -> Tensor:
    """Return x turned forth (`way` = 1) or back (-1), a new tensor.

    Features i and i + D/4, i < D/4, are the two coordinates of a plane; the second half of D stays as it is.
    """
    cos, sin = rotation
    first, second = (slice(part * sin.shape[-1], (part + 1) * sin.shape[-1]) for part in (0, 1))
    result = x * cos
    result[..., first].addcmul_(x[..., second], sin, value=-way)
    result[..., second].addcmul_(x[..., first], sin, value=way)
    return result


class Similarity(torch.autograd.Function):
    """y = R n with n = sqrt(s) r x and r = (|x|^2 + eps)^(-1/2), in float32 at least.

    With d = n . R^-1 g, the gradient of x is sqrt(s) r R^-1 g - r^2 d x, and that of s is the sum of d / 2s.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        high = x.to(wide(x.dtype))
        length = torch.linalg.vector_norm(high, dim=-1, keepdim=True)
        inverse = torch.rsqrt(length.square() + EPSILON)
        ctx.save_for_backward(x, scale, inverse, cos, sin)
        return turned(high * (inverse * _root(scale)), (cos, sin), 1).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, scale, inverse, cos, sin = ctx.saved_tensors
        factor = inverse * _root(scale)
        back = turned(grad.to(inverse.dtype), (cos, sin), -1)
        along = (back * x).sum(-1, keepdim=True).mul_(factor)
        grad_scale = rearrange(along, "... n 1 -> (...) n").sum(0) / (2 * scale)
        grad_x = back.mul_(factor).addcmul_(x, along.mul_(inverse.square()), value=-1)
        return grad_x.to(x.dtype), grad_scale.to(scale.dtype), None, None


def _root(scale: Tensor) -> Tensor:
    return rearrange(scale.to(wide(scale.dtype)).sqrt(), "n -> n 1")


def cosine_rotary(
    x: Float[Tensor, "B H W T N D"], scale: Float[Tensor, " N"], rotation: Rotation
) -> Float[Tensor, "B H W T N D"]:
    """Give queries and keys the length sqrt(scale) and turn them by their positions.

    Args:
        x: T (queries and keys, say) rows of D features for each token and head.
        scale: the learned logit scale of each head, stored as it is: a negative one gives NaN.
        rotation: of the level, see `position.AxialRotary`.
    """
    cos, sin = (rearrange(part, "h w n d -> h w 1 n d") for part in rotation)
    return Similarity.apply(x, scale, cos, sin)
