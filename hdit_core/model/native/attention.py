"""Neighborhood attention (Hassani et al. 2022, arXiv 2204.07143) by the C++ kernels, as a custom operator.

The same function as in `neighborhood.py`, with the same borders. The forward pass saves its attention weights for the
backward pass: k^2 numbers per query and head. All memory is linear in the number of tokens.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from hdit_core.devices import at_least_float32
from hdit_core.model.native.ctypes_bindings import Library, cpu_operator, load


def unavailable(dtype: torch.dtype = torch.float32) -> str | None:
    """Return why the kernels are unavailable on this machine, or None; the first call compiles them."""
    library = load(dtype)
    return library if isinstance(library, str) else None


def _library(dtype: torch.dtype) -> Library:
    library = load(at_least_float32(dtype))
    if isinstance(library, str):
        raise RuntimeError(f"native neighborhood attention is unavailable: {library}")
    return library


def _plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor in the given dtype with contiguous features, as the kernels require."""
    x = x.to(dtype)
    return x if x.stride(-1) == 1 else x.contiguous()


def _empty_weights(q: Tensor, kernel_size: int) -> Tensor:
    """Return an uninitialized tensor for the attention weights, in the kernels' layout."""
    batch, height, width, heads, _ = q.shape
    lanes = _library(q.dtype).lanes
    shape = (batch, heads, height, (width + lanes - 1) // lanes, kernel_size**2, lanes)
    return torch.empty(shape, dtype=at_least_float32(q.dtype), device=q.device)


@cpu_operator("hdit::native_attention")
def _attend(q: Tensor, k: Tensor, v: Tensor, kernel_size: int, keep: bool) -> tuple[Tensor, Tensor]:
    """Return the output, and the attention weights if `keep` is true (otherwise an empty tensor)."""
    if not q.shape == k.shape == v.shape:  # the kernels do not check shapes
        raise ValueError(f"q, k and v have shapes {[tuple(x.shape) for x in (q, k, v)]}: expected the same")
    high = at_least_float32(q.dtype)
    out = torch.empty(q.shape, dtype=high)
    weights = _empty_weights(q, kernel_size) if keep else q.new_empty(0, dtype=high)
    inputs = [_plain(x, high) for x in (q, k, v)]
    _library(q.dtype).forward(inputs, kernel_size, out, weights if keep else None)
    return out.to(v.dtype), weights


@torch.library.register_fake("hdit::native_attention")
def _(q: Tensor, k: Tensor, v: Tensor, kernel_size: int, keep: bool) -> tuple[Tensor, Tensor]:
    weights = _empty_weights(q, kernel_size) if keep else q.new_empty(0, dtype=at_least_float32(q.dtype))
    return torch.empty(q.shape, dtype=v.dtype, device=q.device), weights


@cpu_operator("hdit::native_attention_backward")
def _differentiate(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, weights: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v."""
    inputs = [_plain(x, weights.dtype) for x in (q, k, v, grad)]
    grads = [torch.empty(q.shape, dtype=weights.dtype) for _ in range(3)]
    _library(q.dtype).backward(inputs, weights, torch.empty_like(weights), kernel_size, grads)
    d_q, d_k, d_v = (d_x.to(x.dtype) for d_x, x in zip(grads, (q, k, v), strict=True))
    return d_q, d_k, d_v


@torch.library.register_fake("hdit::native_attention_backward")
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, weights: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    d_q, d_k, d_v = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    return d_q, d_k, d_v


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.kernel_size, keep = inputs
    assert keep, "a gradient needs the weights of the forward pass"
    ctx.save_for_backward(q, k, v, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return *torch.ops.hdit.native_attention_backward(grad, *ctx.saved_tensors, ctx.kernel_size), None, None


def _refuse(ctx: Any, *grads: Tensor | None) -> None:
    raise RuntimeError("native neighborhood attention is differentiable once (once_differentiable)")


torch.library.register_autograd("hdit::native_attention", _backward, setup_context=_save)
torch.library.register_autograd("hdit::native_attention_backward", _refuse)


@register_flop_formula(torch.ops.hdit.native_attention)
def _forward_flops(q: torch.Size, k: torch.Size, v: torch.Size, kernel_size: int, *rest: Any, **outputs: Any) -> int:
    """Return the FLOPs of two products of all queries with the keys of their windows."""
    return 4 * q.numel() * kernel_size**2


@register_flop_formula(torch.ops.hdit.native_attention_backward)
def _backward_flops(
    grad: torch.Size, q: torch.Size, k: torch.Size, v: torch.Size, weights: torch.Size, kernel_size: int, **outputs: Any
) -> int:
    """Return the FLOPs of four such products: gradients of the weights, and of q, k and v."""
    return 8 * q.numel() * kernel_size**2


def native_attention(
    q: Float[Tensor, "B H W N D"], k: Float[Tensor, "B H W N D"], v: Float[Tensor, "B H W N D"], kernel_size: int
) -> Float[Tensor, "B H W N D"]:
    """Return the attention of each token to the `kernel_size` x `kernel_size` window around it.

    Windows are shifted inwards at borders. Results are bit-identical for any number of threads and any batch size.

    Args:
        q, k: queries and keys on the CPU, already scaled: logits are their plain products. They may be views.
        v: values.
        kernel_size: odd, and no larger than the grid.

    Returns:
        The weighted sum of values for each query, in the dtype of v. A second derivative raises RuntimeError.

    Raises:
        ValueError: the kernel size is even, or larger than the grid; or q, k and v differ in shape.
        RuntimeError: the kernels are not available on this machine; see `unavailable`.
    """
    _, height, width, _, _ = q.shape
    if kernel_size % 2 == 0 or kernel_size > min(height, width):
        raise ValueError(
            f"kernel_size = {kernel_size} on a grid of {height}x{width}: expected an odd number up to the smaller side"
        )
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    return torch.ops.hdit.native_attention(q, k, v, kernel_size, keep)[0]
