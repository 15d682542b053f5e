"""Python bindings of the fused gated feed-forward block (`feed_forward.h`)."""

import ctypes
from ctypes import c_int64

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.model.native.ctypes_bindings import Gemm, find_gemm
from hdit_core.model.native.rowwise import RowwiseKernels
from hdit_core.model.native.workspace import feed_forward_blocks, feed_forward_workspace, gradient_rows


class FeedForward(ctypes.Structure):
    """Arguments of the forward kernel: sizes, number of row blocks, and the matrix product."""

    _fields_ = (*((name, c_int64) for name in ("images", "rows", "width", "hidden", "blocks")), ("gemm", Gemm))


class FeedForwardGradient(ctypes.Structure):
    """Arguments of the backward kernel: sizes, rows per block, number of partial sums, and the matrix product."""

    _fields_ = (*((name, c_int64) for name in ("images", "rows", "width", "hidden", "block", "lanes")), ("gemm", Gemm))


def feed_forward(
    kernels: RowwiseKernels,
    x: Float[Tensor, "B *rows C"],
    scale: Float[Tensor, "B *ones C"],
    up: Float[Tensor, "F2 C"],
    down: Float[Tensor, "C F"],
    epsilon: float,
    keep: bool = False,
) -> tuple[Float[Tensor, "B *rows C"], Float[Tensor, "B *rows F2"] | None]:
    """Return `x + down geglu(up norm(x))`, bit-identical to the unfused block, and the tensor saved for the gradient.

    All tensors are contiguous.

    Args:
        kernels: the compiled library.
        x: tokens of B images.
        scale: of the norm, one per image.
        up, down: weight matrices.
        epsilon: of the norm.
        keep: whether to return `up norm(x)` for the backward pass; otherwise the second result is None.
    """
    (width, hidden), total = down.shape, _rows(x)
    blocks, threads, numbers = feed_forward_blocks(total, width, hidden, torch.get_num_threads(), keep)
    result = torch.empty_like(x)
    saved = x.new_empty(*x.shape[:-1], 2 * hidden) if keep else None
    sizes = FeedForward(len(x), total // len(x), width, hidden, blocks, find_gemm())
    tensors = (x, scale, up, down, saved, result, x.new_empty(numbers))
    kernels.run("hdit_feed_forward", sizes, *tensors, epsilon, threads=threads)
    return result, saved


def feed_forward_gradient(
    kernels: RowwiseKernels,
    grad: Float[Tensor, "B *rows C"],
    x: Float[Tensor, "B *rows C"],
    scale: Float[Tensor, "B *ones C"],
    up: Float[Tensor, "F2 C"],
    down: Float[Tensor, "C F"],
    saved: Float[Tensor, "B *rows F2"],
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, scale, up and down.

    The last bits of the matrices' gradients depend on the number of threads.
    """
    (width, hidden), images = down.shape, len(x)
    count = _rows(x) // images
    lanes, numbers = feed_forward_workspace(images, count, width, hidden, torch.get_num_threads())
    sizes = FeedForwardGradient(images, count, width, hidden, gradient_rows(count, width), lanes, find_gemm())
    grad_x, grad_scale, grad_up, grad_down = (torch.empty_like(tensor) for tensor in (x, scale, up, down))
    outputs = (grad_x, grad_scale, grad_up, grad_down, x.new_empty(numbers))
    kernels.run("hdit_feed_forward_gradient", sizes, grad, x, scale, up, down, saved, *outputs, epsilon, threads=lanes)
    return grad_x, grad_scale, grad_up, grad_down


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]
