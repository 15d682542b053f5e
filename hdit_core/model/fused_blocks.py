"""Fused CPU kernels for whole blocks of a layer, and the conditions for using them.

Unfused, a block writes and reads the tokens a dozen times, and between matrix products a CPU is memory-bound.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.nn.modules import module
from torch.utils.module_tracker import ModuleTracker

from hdit_core.model.linear import Linear
from hdit_core.model.native.block_operators import (
    feed_forward_gradient_operator,
    feed_forward_operator,
    visible,
    window_attention_gradient_operator,
    window_attention_operator,
)
from hdit_core.model.native.ctypes_bindings import find_gemm
from hdit_core.model.native.rowwise import rowwise_kernels
from hdit_core.model.native.windows import Layout, Weights
from hdit_core.model.native.workspace import should_fuse
from hdit_core.model.norm import EPSILON, AdaRMSNorm

GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class FusedFeedForward(torch.autograd.Function):
    """y = x + down geglu(up n), with n the normalized x.

    Values and gates are saved for the backward pass, which recomputes the norm and the activation.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """Return y."""
        operator = visible(feed_forward_operator, "feed_forward")
        result, saved = operator(x, scale, up, down, EPSILON, True)
        ctx.save_for_backward(x, scale, up, down, saved)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of the inputs."""
        x, scale, up, down, saved = ctx.saved_tensors
        operator = visible(feed_forward_gradient_operator, "feed_forward_gradient")
        grads: tuple[Tensor, ...] = operator(grad.contiguous(), x, scale, up, down, saved, EPSILON)
        return grads


def fused_feed_forward(
    x: Float[Tensor, "B *rows C"], scale: Float[Tensor, "..."], up: Float[Tensor, "..."], down: Float[Tensor, "..."]
) -> Float[Tensor, "B *rows C"] | None:
    """Return `x + down geglu(up norm(x))`, or None if the kernel does not support these tensors.

    Args:
        x: the input.
        scale: `[B, *ones, C]`; wrong shapes, here or of matrices, give None, so that the unfused block reports them.
        up, down: `[2F, C]` and `[C, F]`.
    """
    width, hidden = x.shape[-1], down.shape[-1]
    fit = up.shape == (2 * hidden, width) and down.shape == (width, hidden) and _is_per_image(scale, x)
    if not fit or rowwise_kernels(x, scale, up, down) is None or _trains_some_but_not_all(x, scale, weights=(up, down)):
        return None
    x, scale, up, down = (tensor.contiguous() for tensor in (x, scale, up, down))
    if _needs_gradients(x, scale, up, down):
        return FusedFeedForward.apply(x, scale, up, down)
    result: Tensor = visible(feed_forward_operator, "feed_forward")(x, scale, up, down, EPSILON, False)[0]
    return result


class FusedWindowAttention(torch.autograd.Function):
    """y = x + out attend(qk_norm(qkv n)), with n the normalized x; see `shifted_window.py` and `qk_norm_rope.py`.

    Normalized queries and keys, values and attention outputs are saved; attention weights are recomputed.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, qkv: Tensor, logit_scale: Tensor, out: Tensor, layout: Layout
    ) -> Tensor:
        """Return y."""
        weights = Weights(scale, qkv, logit_scale.sqrt(), out)
        operator = visible(window_attention_operator, "window_attention")
        result, *saved = operator(x, *weights, *layout, EPSILON, True)
        ctx.save_for_backward(x, layout.cos, layout.sin, logit_scale, *weights, *saved)
        ctx.layout = layout.order, layout.windows, layout.tokens, layout.allowed
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs."""
        x, cos, sin, logit_scale, *tensors = ctx.saved_tensors  # tensors: the weights, and what the forward pass saved
        order, windows, tokens, allowed = ctx.layout
        layout = Layout(order, windows, tokens, cos, sin, allowed)
        operator = visible(window_attention_gradient_operator, "window_attention_gradient")
        grad_x, *grads = operator(grad.contiguous(), x, *tensors, *layout, EPSILON)
        scale, qkv, root, out = grads
        return grad_x, scale, qkv, root / (2 * logit_scale), out, None


def fused_window_attention(
    x: Float[Tensor, "B H W C"],
    scale: Float[Tensor, "..."],
    qkv: Float[Tensor, "..."],
    logit_scale: Float[Tensor, " N"],
    out: Float[Tensor, "..."],
    layout: Layout,
) -> Float[Tensor, "B H W C"] | None:
    """Return `x + out attend(qk_norm(qkv norm(x)))`, or None if the kernel does not support these tensors.

    Args:
        x: the input.
        scale: `[B, 1, 1, C]`; wrong shapes, here or of matrices, give None, so that the unfused block reports them.
        qkv, out: `[3C, C]` and `[C, C]`.
        logit_scale: one per head.
        layout: windows and rotations.
    """
    width, heads, weights = x.shape[-1], len(logit_scale), (qkv, logit_scale, out)
    features, cells = width // heads, (*x.shape[1:3], heads)
    fit = layout.cos.shape == (*cells, features) and layout.sin.shape == (*cells, features // 4)
    fit = fit and _is_per_image(scale, x) and qkv.shape == (3 * width, width) and out.shape == (width, width)
    if not fit or rowwise_kernels(x, scale, *weights, layout.cos, layout.sin) is None:
        return None
    if _trains_some_but_not_all(x, scale, weights=weights):
        return None
    x, scale, qkv, logit_scale, out = (tensor.contiguous() for tensor in (x, scale, qkv, logit_scale, out))
    if _needs_gradients(x, scale, qkv, logit_scale, out):
        return FusedWindowAttention.apply(x, scale, qkv, logit_scale, out, layout)
    operator = visible(window_attention_operator, "window_attention")
    result: Tensor = operator(x, scale, qkv, logit_scale.sqrt(), out, *layout, EPSILON, False)[0]
    return result


def can_fuse(block: nn.Module, x: Float[Tensor, "B *rows C"], *weights: Tensor) -> bool:
    """Return whether a block can use its fused kernel and is faster with it.

    It cannot under tracing, autocast or forward-mode AD, with active dropout, or if its submodules have hooks or were
    replaced. A dispatch mode such as FlopCounterMode makes no difference: activation checkpointing may recompute a
    block without the mode.

    Args:
        block: a block of a norm, linear layers and dropout.
        x: its input.
        weights: its matrices.
    """
    if not should_fuse(x.shape[1:-1].numel(), sum(weight.numel() for weight in weights)) or find_gemm() is None:
        return False
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() or torch.is_autocast_enabled("cpu"):
        return False
    if forward_ad._current_level >= 0:
        return False
    return not _has_global_hooks() and all(map(_is_unmodified, block.children()))


def _has_global_hooks() -> bool:
    """Return whether hooks on all modules are set, other than those of FlopCounterMode, which only record names."""
    hooks = [hook for name in GLOBAL_HOOKS for hook in getattr(module, name).values()]
    return not all(isinstance(getattr(hook, "__self__", None), ModuleTracker) for hook in hooks)


def _is_unmodified(part: nn.Module) -> bool:
    drops = isinstance(part, nn.Dropout) and part.training and part.p > 0
    hooked = any(getattr(part, hooks) for hooks in HOOKS)
    return type(part) in (Linear, AdaRMSNorm, nn.Dropout) and "forward" not in vars(part) and not (drops or hooked)


def _is_per_image(scale: Tensor, x: Tensor) -> bool:
    return scale.shape == (len(x), *[1] * (x.ndim - 2), x.shape[-1])


def _trains_some_but_not_all(*others: Tensor, weights: tuple[Tensor, ...]) -> bool:
    """Return whether gradients are needed, but not of all weights: the kernel always computes all."""
    return _needs_gradients(*others, *weights) and not all(weight.requires_grad for weight in weights)


def _needs_gradients(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
