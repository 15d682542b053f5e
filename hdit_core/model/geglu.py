"""Activations of feed-forward blocks: GEGLU (Shazeer 2020, arXiv 2002.05202; HDiT paper, section 3.2) and GELU.

GEGLU saves only its input for the backward pass, which recomputes the gates: that is cheaper than reading them.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hdit_core.model.native.rowwise import rowwise_kernels
from hdit_core.recipe.model import FeedForward


class GEGLU(torch.autograd.Function):
    """y = a gelu(b), with a and b the two halves of the features; gelu(b) = b cdf(b), not approximated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return y."""
        ctx.save_for_backward(x)
        if rows := rowwise_kernels(x):
            return rows.geglu(x.contiguous())
        values, gates = x.chunk(2, dim=-1)
        # contiguous: faster, and a single row would otherwise use another kernel with other last bits
        return values * F.gelu(gates.contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient of x."""
        (x,) = ctx.saved_tensors
        if rows := rowwise_kernels(grad, x):
            return rows.geglu_gradient(grad.contiguous(), x.contiguous())
        values, gates = x.chunk(2, dim=-1)
        gates = gates.contiguous()
        return torch.cat([grad * F.gelu(gates), torch.ops.aten.gelu_backward(grad * values, gates)], dim=-1)


def geglu(x: Float[Tensor, "*rows F2"]) -> Float[Tensor, "*rows F"]:
    """Return the first half of the features times the GELU of the second half."""
    return GEGLU.apply(x)


Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[FeedForward, tuple[Activation, int]] = {"geglu": (geglu, 2), "gelu": (F.gelu, 1)}
"""Values of `model.feed_forward`: the activation, and its number of input features per output feature."""
