"""Neighborhood attention with the Triton kernels, as two custom operators: one forward, one backward.

The operators are opaque to `torch.compile`, `torch.export`, activation checkpointing and FLOP counters. The forward
pass saves the log-sum-exp of each query's logits, from which the backward kernels recompute the weights.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from hdit_core.model.triton.autotune import select
from hdit_core.model.triton.configuration import Kernel
from hdit_core.model.triton.launch import Launch


def _run(kernel: Kernel, kernel_size: int, *tensors: Tensor) -> None:
    launch = Launch(kernel, tensors, kernel_size)
    launch.run(select(launch))


def _readable(x: Tensor) -> Tensor:
    """Return the tensor with contiguous features, copied only if necessary."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _empty_contiguous(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _empty_per_query(q: Tensor) -> Tensor:
    return torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)


@torch.library.custom_op("hdit::triton_attention", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Return the output and the log-sum-exp of each query's logits."""
    if not (q.shape == k.shape == v.shape and q.dtype == k.dtype == v.dtype):
        tensors = [f"{tuple(x.shape)} {x.dtype}" for x in (q, k, v)]
        raise ValueError(f"q, k and v are {', '.join(tensors)}: expected the same shape and dtype")
    out, lse = _empty_contiguous(q), _empty_per_query(q)
    _run("forward", kernel_size, *map(_readable, (q, k, v)), out, lse)
    return out, lse


@torch.library.custom_op("hdit::triton_attention_backward", mutates_args=())
def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v."""
    q, k, v, grad, delta = _readable(q), _readable(k), _readable(v), grad.contiguous(), _empty_per_query(q)
    grad_q, grad_k, grad_v = (_empty_contiguous(x) for x in (q, k, v))
    _run("backward_queries", kernel_size, q, k, v, out, grad, lse, delta, grad_q)
    _run("backward_keys", kernel_size, q, k, v, grad, lse, delta, grad_k, grad_v)
    return grad_q, grad_k, grad_v


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    return _empty_contiguous(q), _empty_per_query(q)


@_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_contiguous(q), _empty_contiguous(k), _empty_contiguous(v)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.kernel_size = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, *output)


def _gradients(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    return *_backward(grad, *ctx.saved_tensors, ctx.kernel_size), None


def _refuse(ctx: Any, *grads: Tensor | None) -> None:
    raise RuntimeError("neighborhood attention in Triton is differentiable once")


_forward.register_autograd(_gradients, setup_context=_remember)
_backward.register_autograd(_refuse)


@register_flop_formula(torch.ops.hdit.triton_attention)
def _forward_flops(q: torch.Size, k: torch.Size, v: torch.Size, kernel_size: int, **outputs: Any) -> int:
    """Return the FLOPs of two products of all queries with the keys of their windows; masked products do not count."""
    return 4 * q.numel() * kernel_size**2


@register_flop_formula(torch.ops.hdit.triton_attention_backward)
def _backward_flops(grad: torch.Size, q: torch.Size, *rest: Any, **outputs: Any) -> int:
    """Return the FLOPs of four such products: gradients of the weights, and of q, k and v."""
    return 8 * q.numel() * rest[-1] ** 2


def triton_attention(
    q: Float[Tensor, "B H W N D"], k: Float[Tensor, "B H W N D"], v: Float[Tensor, "B H W N D"], kernel_size: int
) -> Float[Tensor, "B H W N D"]:
    """Return the attention of each token to the `kernel_size` x `kernel_size` window around it.

    Windows are shifted inwards at borders.

    Args:
        q, k: queries and keys, already scaled: logits are their plain products. They may be views.
        v: values.
        kernel_size: odd, and no larger than the grid.

    Returns:
        The weighted sum of values for each query. A second derivative raises RuntimeError.

    Raises:
        ValueError: q, k and v differ in shape or dtype.
    """
    attended, _ = _forward(q, k, v, kernel_size)
    return attended
