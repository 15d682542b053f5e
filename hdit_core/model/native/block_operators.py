"""The fused blocks as custom operators: dispatch modes, such as FlopCounterMode, see one operation each.

Without a mode, the functions are called directly, which saves the dispatcher's time.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from hdit_core.model.native.ctypes_bindings import cpu_operator
from hdit_core.model.native.feed_forward import feed_forward, feed_forward_gradient
from hdit_core.model.native.rowwise import RowwiseKernels, load_rowwise_kernels
from hdit_core.model.native.windows import Layout, Saved, Weights, window_attention, window_attention_gradient


def visible(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function, or the operator of that name if a dispatch mode is active."""
    return getattr(torch.ops.hdit, name) if torch._C._len_torch_dispatch_stack() else function


def _library() -> RowwiseKernels:
    library = load_rowwise_kernels()
    assert isinstance(library, RowwiseKernels)  # `rowwise_kernels` loaded it
    return library


@cpu_operator("hdit::feed_forward")
def feed_forward_operator(
    x: Tensor, scale: Tensor, up: Tensor, down: Tensor, epsilon: float, keep: bool
) -> tuple[Tensor, Tensor]:
    """Return `x + down geglu(up norm(x))`, and the saved tensor if `keep` is true (otherwise an empty one)."""
    result, saved = feed_forward(_library(), x, scale, up, down, epsilon, keep)
    return result, x.new_empty(0) if saved is None else saved


@torch.library.register_fake("hdit::feed_forward")
def _(x: Tensor, scale: Tensor, up: Tensor, down: Tensor, epsilon: float, keep: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(*x.shape[:-1], len(up)) if keep else x.new_empty(0)


@cpu_operator("hdit::feed_forward_gradient")
def feed_forward_gradient_operator(
    grad: Tensor, x: Tensor, scale: Tensor, up: Tensor, down: Tensor, saved: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, scale, up and down."""
    return feed_forward_gradient(_library(), grad, x, scale, up, down, saved, epsilon)


@torch.library.register_fake("hdit::feed_forward_gradient")
def _(
    grad: Tensor, x: Tensor, scale: Tensor, up: Tensor, down: Tensor, saved: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(scale), torch.empty_like(up), torch.empty_like(down)


@cpu_operator("hdit::window_attention")
def window_attention_operator(
    x: Tensor,
    scale: Tensor,
    qkv: Tensor,
    root: Tensor,
    out: Tensor,
    order: Tensor,
    windows: int,
    tokens: int,
    cos: Tensor,
    sin: Tensor,
    allowed: Tensor | None,
    epsilon: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return `x + out attend(qk_norm(qkv norm(x)))`, and the saved tensors if `keep` is true (else empty ones)."""
    layout = Layout(order, windows, tokens, cos, sin, allowed)
    result, saved = window_attention(_library(), x, Weights(scale, qkv, root, out), layout, epsilon, keep)
    qkv_saved, attended, inverse = (x.new_empty(0) for _ in Saved._fields) if saved is None else saved
    return result, qkv_saved, attended, inverse


@torch.library.register_fake("hdit::window_attention")
def _(x: Tensor, scale: Tensor, qkv: Tensor, root: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width, rows = x.shape[-1], x.numel() // x.shape[-1]
    features = (3 * width, width, 2 * len(root))
    qkv_saved, attended, inverse = (x.new_empty((rows, count) if rest[-1] else 0) for count in features)
    return torch.empty_like(x), qkv_saved, attended, inverse


@cpu_operator("hdit::window_attention_gradient")
def window_attention_gradient_operator(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    qkv: Tensor,
    root: Tensor,
    out: Tensor,
    saved_qkv: Tensor,
    attended: Tensor,
    inverse: Tensor,
    order: Tensor,
    windows: int,
    tokens: int,
    cos: Tensor,
    sin: Tensor,
    allowed: Tensor | None,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x and of the weights; see `window_attention_gradient` for that of the roots."""
    layout, saved = Layout(order, windows, tokens, cos, sin, allowed), Saved(saved_qkv, attended, inverse)
    weights = Weights(scale, qkv, root, out)
    grad_x, grads = window_attention_gradient(_library(), grad, x, weights, layout, saved, epsilon)
    return grad_x, *grads


@torch.library.register_fake("hdit::window_attention_gradient")
def _(grad: Tensor, *tensors: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, scale, qkv, root, out = map(torch.empty_like, tensors[:5])
    return x, scale, qkv, root, out


Size = tuple[int, ...]


@register_flop_formula(torch.ops.hdit.feed_forward)
def _feed_forward_flops(x: Size, scale: Size, up: Size, down: Size, *_: Any, **out: Any) -> int:
    """Return the FLOPs of the products with both matrices."""
    return 2 * math.prod(x[:-1]) * (math.prod(up) + math.prod(down))


@register_flop_formula(torch.ops.hdit.feed_forward_gradient)
def _feed_forward_gradient_flops(grad: Size, x: Size, scale: Size, up: Size, down: Size, *_: Any, **out: Any) -> int:
    """Return the FLOPs of two products for each of the forward pass."""
    return 4 * math.prod(x[:-1]) * (math.prod(up) + math.prod(down))


@register_flop_formula(torch.ops.hdit.window_attention)
def _window_flops(x: Size, scale: Size, qkv: Size, root: Size, *rest: Any, **out: Any) -> int:
    """Return the FLOPs of the products with both matrices, and of all queries with the keys of their windows, twice."""
    projection, _, _, tokens = rest[:4]
    return 2 * math.prod(x[:-1]) * (math.prod(qkv) + math.prod(projection)) + 4 * math.prod(x) * tokens


@register_flop_formula(torch.ops.hdit.window_attention_gradient)
def _window_gradient_flops(grad: Size, x: Size, scale: Size, qkv: Size, root: Size, *rest: Any, **out: Any) -> int:
    """Return the FLOPs of two products for each one with a matrix, and of five products of attention, one repeated."""
    projection, tokens = rest[0], rest[6]
    return 4 * math.prod(x[:-1]) * (math.prod(qkv) + math.prod(projection)) + 10 * math.prod(x) * tokens
