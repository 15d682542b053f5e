"""Neighborhood attention in plain PyTorch, for every device and dtype: the base that all others are held against.

Per tile of queries (see `tiling.py`) that is one product, a mask, a softmax and a second product; memory is O(tokens).
The backward pass is written out, since autograd's own for overlapping halos scatters number by number.

Both passes are operators of torch's library: `torch.compile` takes each as a whole, and never sees how its mask is made
(inductor crashes on that).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from hdit_core.model.norm import wide
from hdit_core.model.place import Place
from hdit_core.model.tiling import Axis, cut, from_halos, from_tiles, tile_mask, to_halos, to_tiles

TILE = (4, 8)  # rows and columns of queries; measured best among 2..16 for kernels of 5 to 9


def unavailable(place: Place) -> str | None:
    """Return what keeps it from running there: nothing ever does."""
    return None


def describe(place: Place) -> str:
    """Return its name for the log."""
    return f"tiled ({place.device_name})"


def cut_grid(x: Tensor, kernel_size: int) -> tuple[Axis, Axis]:
    """Return how the rows and the columns of a `[B, H, W, N, D]` tensor are cut."""
    return cut(x.shape[1], kernel_size, TILE[0]), cut(x.shape[2], kernel_size, TILE[1])


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of all products but that of queries and keys, which is float32 at least.

    16-bit logits of 10 are off by a percent; what follows the softmax loses no more than the results' own rounding. On
    a CPU products in 16 bits are slower than those in 32.
    """
    return wide(x.dtype) if x.device.type == "cpu" else x.dtype


def plain(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Return what each query attended to, and the weights, as no operator of its own, for programs that know none."""
    rows, columns = cut_grid(q, kernel_size)
    heads, high, low = q.shape[3], wide(q.dtype), product_dtype(q)
    with torch.autocast(q.device.type, enabled=False):
        queries = to_tiles(q.to(high), rows, columns)
        keys, values = (to_halos(x.to(low), rows, columns) for x in (k, v))
        mask = tile_mask(rows, columns, kernel_size, high, q.device)
        logits = mask.repeat(queries.shape[0] // mask.shape[0], 1, 1).baddbmm_(queries, keys.to(high).mT)
        weights = logits.softmax(-1)
        return from_tiles(weights.to(low) @ values, rows, columns, heads).to(v.dtype), weights


_forward = torch.library.custom_op("hdit::tiled_attention", plain, mutates_args=())


@torch.library.custom_op("hdit::tiled_attention_backward", mutates_args=())
def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, weights: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = cut_grid(q, kernel_size)
    heads, high, low = q.shape[3], weights.dtype, product_dtype(q)
    with torch.autocast(q.device.type, enabled=False):
        grads = to_tiles(grad.to(low), rows, columns)
        d_values = weights.to(low).mT @ grads
        d_weights = (grads @ to_halos(v.to(low), rows, columns).mT).to(high)
        d_logits = torch._softmax_backward_data(d_weights, weights, -1, high).to(low)
        d_queries = d_logits @ to_halos(k.to(low), rows, columns)
        d_keys = d_logits.mT @ to_tiles(q.to(low), rows, columns)
        d_q = from_tiles(d_queries, rows, columns, heads).to(q.dtype)
        d_k, d_v = (from_halos(x, rows, columns, heads).to(q.dtype) for x in (d_keys, d_values))
        return d_q, d_k, d_v


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    rows, columns = cut_grid(q, kernel_size)
    tiles = q.shape[0] * q.shape[3] * rows.tiles * columns.tiles
    weights = q.new_empty(tiles, rows.tile * columns.tile, rows.halo * columns.halo, dtype=wide(q.dtype))
    return v.new_empty(v.shape), weights


@_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, weights: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.kernel_size = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, output[1])


def _gradients(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    return *_backward(grad, *ctx.saved_tensors, ctx.kernel_size), None


def _refuse(ctx: Any, *grads: Tensor | None) -> None:
    raise RuntimeError("tiled neighborhood attention is differentiable once")


_forward.register_autograd(_gradients, setup_context=_remember)
_backward.register_autograd(_refuse)


@register_flop_formula(torch.ops.hdit.tiled_attention)
def _forward_flops(q: torch.Size, k: torch.Size, v: torch.Size, kernel_size: int, **outputs: Any) -> int:
    """Two products of all queries with the keys of their windows; what the mask throws away is no work of the model."""
    return 4 * q.numel() * kernel_size**2


@register_flop_formula(torch.ops.hdit.tiled_attention_backward)
def _backward_flops(grad: torch.Size, q: torch.Size, *rest: Any, **outputs: Any) -> int:
    """Four such products: for the gradients of the weights, and of q, k and v."""
    return 8 * q.numel() * rest[-1] ** 2


def attend(
    q: Float[Tensor, "B H W N D"], k: Float[Tensor, "B H W N D"], v: Float[Tensor, "B H W N D"], kernel_size: int
) -> Float[Tensor, "B H W N D"]:
    """Attend as `neighborhood_attention` says; the arguments are already checked.

    A second derivative raises RuntimeError.
    """
    attended, _ = _forward(q, k, v, kernel_size)
    return attended
