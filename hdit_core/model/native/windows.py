"""Python bindings of the fused attention block with windows (`windows.h`)."""

import ctypes
from ctypes import c_float, c_int64, c_void_p
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hdit_core.model.native.ctypes_bindings import Gemm, find_gemm
from hdit_core.model.native.rowwise import RowwiseKernels
from hdit_core.model.native.workspace import window_workspace, windows_per_block


class Layout(NamedTuple):
    """The division of a batch's tokens into windows, their rotations and their mask.

    Attributes:
        order: for each token in window order, its row-major index in the batch.
        windows, tokens: windows per image; tokens per window.
        cos, sin: of the rotations, in grid order.
        allowed: which tokens of a window may attend to each other; None: all.
    """

    order: Int64[Tensor, " rows"]
    windows: int
    tokens: int
    cos: Float[Tensor, "H W N D"]
    sin: Float[Tensor, "H W N D4"]
    allowed: Bool[Tensor, "windows L L"] | None


class Weights(NamedTuple):
    """The tensors of a block: norm scales of each image, weight matrices, and roots of the logit scales."""

    scale: Float[Tensor, "B 1 1 C"]
    qkv: Float[Tensor, "C3 C"]
    root: Float[Tensor, " N"]
    out: Float[Tensor, "C C"]


class Saved(NamedTuple):
    """The tensors that the forward pass saves for the backward pass, in window order."""

    qkv: Float[Tensor, "rows C3"]
    attended: Float[Tensor, "rows C"]
    inverse: Float[Tensor, "rows N2"]


class Windows(ctypes.Structure):
    """Arguments of the kernels: sizes, layout, and the matrix product."""

    _fields_ = (
        *((name, c_int64) for name in ("images", "windows", "tokens", "heads", "features", "block", "lanes")),
        *((name, c_void_p) for name in ("order", "cos", "sin", "allowed")),
        ("epsilon", c_float),
        ("gemm", Gemm),
    )


class Pointers(ctypes.Structure):
    """Addresses of the saved tensors, or null pointers."""

    _fields_ = tuple((name, c_void_p) for name in Saved._fields)


def window_attention(
    kernels: RowwiseKernels,
    x: Float[Tensor, "B H W C"],
    weights: Weights,
    layout: Layout,
    epsilon: float,
    keep: bool = False,
) -> tuple[Float[Tensor, "B H W C"], Saved | None]:
    """Return `x + out attend(qk_norm(qkv norm(x)))`, and the saved tensors if `keep` is true.

    All tensors are contiguous.
    """
    sizes, forward_size, _ = _sizes(x, weights, layout, epsilon)
    count, width, heads = x.numel() // x.shape[-1], x.shape[-1], len(weights.root)
    saved = Saved(*(x.new_empty(count, features) for features in (3 * width, width, 2 * heads))) if keep else None
    result = torch.empty_like(x)
    tensors = (
        x,
        weights.scale,
        weights.qkv,
        weights.root,
        weights.out,
        _pointers(saved),
        result,
        x.new_empty(forward_size),
    )
    kernels.run("hdit_windows", sizes, *tensors, threads=sizes.lanes)
    return result, saved


def window_attention_gradient(
    kernels: RowwiseKernels,
    grad: Float[Tensor, "B H W C"],
    x: Tensor,
    weights: Weights,
    layout: Layout,
    saved: Saved,
    epsilon: float,
) -> tuple[Tensor, Weights]:
    """Return the gradients of x and of the weights.

    In place of the gradient of `root` it is that of the logit scale (the square of `root`) times twice the scale.

    The last bits of the matrices' gradients depend on the number of threads.
    """
    sizes, _, backward_size = _sizes(x, weights, layout, epsilon)
    grad_x, grads = torch.empty_like(x), Weights(*map(torch.empty_like, weights))
    inputs = (grad, x, weights.scale, weights.qkv, weights.root, weights.out, _pointers(saved))
    kernels.run(
        "hdit_windows_gradient", sizes, *inputs, grad_x, *grads, x.new_empty(backward_size), threads=sizes.lanes
    )
    return grad_x, grads


def _sizes(x: Tensor, weights: Weights, layout: Layout, epsilon: float) -> tuple[Windows, int, int]:
    """Return the kernel arguments, and the sizes of the forward and backward workspaces in numbers."""
    images, windows, tokens, width, heads = len(x), layout.windows, layout.tokens, x.shape[-1], len(weights.root)
    lanes, forward_size, backward_size = window_workspace(images, windows, tokens, width, torch.get_num_threads())
    counts = (images, windows, tokens, heads, width // heads, windows_per_block(windows, tokens), lanes)
    tensors = (layout.order, layout.cos, layout.sin, layout.allowed)
    pointers = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
    return Windows(*counts, *pointers, epsilon, find_gemm()), forward_size, backward_size


def _pointers(saved: Saved | None) -> Pointers:
    return Pointers() if saved is None else Pointers(*(tensor.data_ptr() for tensor in saved))
