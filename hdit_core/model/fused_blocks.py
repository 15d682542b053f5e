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

from hdit_core.model.linear import Linear
from hdit_core.model.native.feed_forward import feed_forward, feed_forward_gradient
from hdit_core.model.native.library import find_gemm
from hdit_core.model.native.rowwise import RowwiseKernels, load_rowwise_kernels, rowwise_kernels
from hdit_core.model.native.windows import Layout, Saved, Weights, window_attention, window_attention_gradient
from hdit_core.model.native.workspace import should_fuse
from hdit_core.model.norm import EPSILON, AdaRMSNorm

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class FusedFeedForward(torch.autograd.Function):
    """y = x + down geglu(up n), with n the normalized x.

    Values and gates are saved for the backward pass, which recomputes the norm and the activation.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """Return y."""
        result, saved = feed_forward(_library(), x, scale, up, down, EPSILON, keep=True)
        ctx.save_for_backward(x, scale, up, down, saved)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of the inputs."""
        x, scale, up, down, saved = ctx.saved_tensors
        return feed_forward_gradient(_library(), grad.contiguous(), x, scale, up, down, saved, EPSILON)


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
    return feed_forward(_library(), x, scale, up, down, EPSILON)[0]


class FusedWindowAttention(torch.autograd.Function):
    """y = x + out attend(qk_norm(qkv n)), with n the normalized x; see `shifted_window.py` and `qk_norm.py`.

    Normalized queries and keys, values and attention outputs are saved; attention weights are recomputed.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, qkv: Tensor, logit_scale: Tensor, out: Tensor, layout: Layout
    ) -> Tensor:
        """Return y."""
        weights = Weights(scale, qkv, logit_scale.sqrt(), out)
        result, saved = window_attention(_library(), x, weights, layout, EPSILON, keep=True)
        assert saved is not None
        ctx.save_for_backward(x, layout.cos, layout.sin, logit_scale, *weights, *saved)
        ctx.layout = layout.order, layout.windows, layout.tokens, layout.allowed
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs."""
        x, cos, sin, logit_scale, *tensors = ctx.saved_tensors
        weights, saved = Weights(*tensors[:4]), Saved(*tensors[4:])
        order, windows, tokens, allowed = ctx.layout
        layout = Layout(order, windows, tokens, cos, sin, allowed)
        grad_x, grads = window_attention_gradient(_library(), grad.contiguous(), x, weights, layout, saved, EPSILON)
        return grad_x, grads.scale, grads.qkv, grads.root / (2 * logit_scale), grads.out, None


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
    return window_attention(_library(), x, Weights(scale, qkv, logit_scale.sqrt(), out), layout, EPSILON)[0]


def can_fuse(block: nn.Module, x: Float[Tensor, "B *rows C"], *weights: Tensor) -> bool:
    """Return whether a block can use its fused kernel and is faster with it.

    It cannot under tracing, autocast, forward-mode AD or a dispatch mode, with active dropout, or if its submodules
    have hooks or were replaced.

    Args:
        block: a block of a norm, linear layers and dropout.
        x: its input.
        weights: its matrices.
    """
    if not should_fuse(x.shape[1:-1].numel(), sum(weight.numel() for weight in weights)) or find_gemm() is None:
        return False
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() or torch.is_autocast_enabled("cpu"):
        return False
    if forward_ad._current_level >= 0 or torch._C._len_torch_dispatch_stack() > 0:  # such as FlopCounterMode
        return False
    return not module._has_any_global_hook() and all(map(_is_unmodified, block.children()))


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


def _library() -> RowwiseKernels:
    library = load_rowwise_kernels()
    assert isinstance(library, RowwiseKernels)  # `rowwise_kernels` loaded it
    return library
