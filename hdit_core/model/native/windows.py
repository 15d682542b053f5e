"""The compiled pass of an attention block with windows (`windows.h`) seen from Python."""

import ctypes
from ctypes import c_float, c_int64, c_void_p
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hdit_core.model.native.library import Gemm, find_gemm
from hdit_core.model.native.rowwise import RowwiseKernels
from hdit_core.model.native.workspace import window_workspace, windows_at_a_time


class Layout(NamedTuple):
    """Where tokens stand and what they see of one another.

    Attributes:
        order: which row of the batch's grids, counted row by row, stands where in the order of windows.
        windows, tokens: windows of an image; tokens of a window.
        cos, sin: of the rotations, in the order of the grid.
        allowed: which tokens of a window may attend to which; None: all.
    """

    order: Int64[Tensor, " rows"]
    windows: int
    tokens: int
    cos: Float[Tensor, "H W N D"]
    sin: Float[Tensor, "H W N D4"]
    allowed: Bool[Tensor, "windows L L"] | None


class Weights(NamedTuple):
    """The tensors of a block: scales of the norm for each image, matrices, and roots of the scales of the logits."""

    scale: Float[Tensor, "B 1 1 C"]
    qkv: Float[Tensor, "C3 C"]
    root: Float[Tensor, " N"]
    out: Float[Tensor, "C C"]


class Kept(NamedTuple):
    """What the backward pass needs of the forward one, in the order of windows."""

    qkv: Float[Tensor, "rows C3"]
    attended: Float[Tensor, "rows C"]
    inverse: Float[Tensor, "rows N2"]


class Windows(ctypes.Structure):
    """The sizes, the layout, and what multiplies."""

    _fields_ = (
        *((name, c_int64) for name in ("images", "windows", "tokens", "heads", "features", "block", "lanes")),
        *((name, c_void_p) for name in ("order", "cos", "sin", "allowed")),
        ("epsilon", c_float),
        ("gemm", Gemm),
    )


class Pointers(ctypes.Structure):
    """Of what is kept, or none."""

    _fields_ = tuple((name, c_void_p) for name in Kept._fields)


def window_attention(
    kernels: RowwiseKernels,
    x: Float[Tensor, "B H W C"],
    weights: Weights,
    layout: Layout,
    epsilon: float,
    keep: bool = False,
) -> tuple[Float[Tensor, "B H W C"], Kept | None]:
    """Return `x + out attend(similarity(qkv norm(x)))`, and what its gradient needs if asked to; all are contiguous."""
    sizes, forth, _ = _sizes(x, weights, layout, epsilon)
    count, width, heads = x.numel() // x.shape[-1], x.shape[-1], len(weights.root)
    kept = Kept(*(x.new_empty(count, features) for features in (3 * width, width, 2 * heads))) if keep else None
    result = torch.empty_like(x)
    tensors = (x, weights.scale, weights.qkv, weights.root, weights.out, _pointers(kept), result, x.new_empty(forth))
    kernels.run("hdit_windows", sizes, *tensors, threads=sizes.lanes)
    return result, kept


def window_attention_gradient(
    kernels: RowwiseKernels,
    grad: Float[Tensor, "B H W C"],
    x: Tensor,
    weights: Weights,
    layout: Layout,
    kept: Kept,
    epsilon: float,
) -> tuple[Tensor, Weights]:
    """Return the gradients of x and of the weights; that of a root is the scale's, times twice the scale.

    The last bits of the matrices' depend on the number of threads.
    """
    sizes, _, back = _sizes(x, weights, layout, epsilon)
    grad_x, grads = torch.empty_like(x), Weights(*map(torch.empty_like, weights))
    inputs = (grad, x, weights.scale, weights.qkv, weights.root, weights.out, _pointers(kept))
    kernels.run("hdit_windows_gradient", sizes, *inputs, grad_x, *grads, x.new_empty(back), threads=sizes.lanes)
    return grad_x, grads


def _sizes(x: Tensor, weights: Weights, layout: Layout, epsilon: float) -> tuple[Windows, int, int]:
    """Return the sizes, and the numbers that a pass works in, forth and back."""
    images, windows, tokens, width, heads = len(x), layout.windows, layout.tokens, x.shape[-1], len(weights.root)
    lanes, forth, back = window_workspace(images, windows, tokens, width, torch.get_num_threads())
    counts = (images, windows, tokens, heads, width // heads, windows_at_a_time(windows, tokens), lanes)
    tensors = (layout.order, layout.cos, layout.sin, layout.allowed)
    pointers = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
    return Windows(*counts, *pointers, epsilon, find_gemm()), forth, back


def _pointers(kept: Kept | None) -> Pointers:
    return Pointers() if kept is None else Pointers(*(tensor.data_ptr() for tensor in kept))
