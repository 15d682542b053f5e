"""Blocks of a layer in one compiled pass on a CPU, where nothing else is asked of them; else they go step by step.

Step by step each block writes and reads the tokens a dozen times over; between its products a CPU waits for its memory.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hdit_core.model.initial import Linear
from hdit_core.model.native.extent import is_taken
from hdit_core.model.native.feed_forward import feed_forward, feed_forward_gradient
from hdit_core.model.native.gemm import find_gemm
from hdit_core.model.native.rows import Rows, load_rows, rows_for
from hdit_core.model.native.windows import (
    Kept,
    Layout,
    Weights,
    window_attention,
    window_attention_gradient,
)
from hdit_core.model.norm import EPSILON


class FeedForwardPass(torch.autograd.Function):
    """y = x + down gated(up n), with n the normalised x.

    Values and gates are kept for the backward pass, which works norms and units out again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, up: Tensor, down: Tensor) -> Tensor:
        result, kept = feed_forward(_library(), x, scale, up, down, EPSILON, keep=True)
        ctx.save_for_backward(x, scale, up, down, kept)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, scale, up, down, kept = ctx.saved_tensors
        return feed_forward_gradient(_library(), grad.contiguous(), x, scale, up, down, kept, EPSILON)


def feed_forward_in_one_pass(
    x: Float[Tensor, "B *rows C"],
    scale: Float[Tensor, "B *ones C"],
    up: Float[Tensor, "F2 C"],
    down: Float[Tensor, "C F"],
) -> Float[Tensor, "B *rows C"] | None:
    """Return `x + down gated(up norm(x))`, or None where there is no pass for these."""
    if rows_for(x, scale, up, down) is None or not _is_taken(x, up, down):
        return None
    x, scale, up, down = (tensor.contiguous() for tensor in (x, scale, up, down))
    if _asks_for_gradients(x, scale, up, down):
        return FeedForwardPass.apply(x, scale, up, down)
    return feed_forward(_library(), x, scale, up, down, EPSILON)[0]


class WindowPass(torch.autograd.Function):
    """y = x + out attend(similarity(qkv n)), with n the normalised x; see `window.py` and `similarity.py`.

    Queries, keys and values are kept as they meet, and what they gave; who attends to whom is worked out again.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, qkv: Tensor, logit_scale: Tensor, out: Tensor, layout: Layout
    ) -> Tensor:
        weights = Weights(scale, qkv, logit_scale.sqrt(), out)
        result, kept = window_attention(_library(), x, weights, layout, EPSILON, keep=True)
        assert kept is not None
        ctx.save_for_backward(x, logit_scale, *weights, *kept)
        ctx.layout = layout
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, logit_scale, *saved = ctx.saved_tensors
        weights, kept = Weights(*saved[:4]), Kept(*saved[4:])
        grad_x, grads = window_attention_gradient(_library(), grad.contiguous(), x, weights, ctx.layout, kept, EPSILON)
        return grad_x, grads.scale, grads.qkv, grads.root / (2 * logit_scale), grads.out, None


def window_attention_in_one_pass(
    x: Float[Tensor, "B H W C"],
    scale: Float[Tensor, "B 1 1 C"],
    qkv: Float[Tensor, "C3 C"],
    logit_scale: Float[Tensor, " N"],
    out: Float[Tensor, "C C"],
    layout: Layout,
) -> Float[Tensor, "B H W C"] | None:
    """Return `x + out attend(similarity(qkv norm(x)))`, or None where there is no pass for these."""
    if rows_for(x, scale, qkv, logit_scale, out, layout.cos, layout.sin) is None or not _is_taken(x, qkv, out):
        return None
    x, scale, qkv, logit_scale, out = (tensor.contiguous() for tensor in (x, scale, qkv, logit_scale, out))
    if _asks_for_gradients(x, scale, qkv, logit_scale, out):
        return WindowPass.apply(x, scale, qkv, logit_scale, out, layout)
    return window_attention(_library(), x, Weights(scale, qkv, logit_scale.sqrt(), out), layout, EPSILON)[0]


def may_go_in_one_pass(block: nn.Module, *products: nn.Module) -> bool:
    """Return whether a block is nothing but its formula.

    So it is not traced, not autocast, drops nothing, and nobody looks at what goes through its parts or has put others
    in place of its products.
    """
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    parts = list(block.children())
    drops = block.training and any(isinstance(part, nn.Dropout) and part.p > 0 for part in parts)
    hooked = any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        for part in parts
    )
    counted = torch._C._len_torch_dispatch_stack() > 0  # such as torch's counter of FLOPs
    return not (drops or hooked or counted) and all(type(product) is Linear for product in products)


def _is_taken(x: Tensor, *weights: Tensor) -> bool:
    taken = is_taken(x.shape[1:-1].numel(), sum(weight.numel() for weight in weights))
    return taken and find_gemm() is not None


def _asks_for_gradients(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _library() -> Rows:
    found = load_rows()
    assert isinstance(found, Rows)  # `rows_for` has found it
    return found
