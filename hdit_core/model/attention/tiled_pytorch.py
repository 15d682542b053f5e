"""Neighborhood attention in plain PyTorch, for every device and dtype: the reference for all other backends.

Queries are processed in tiles, each with a halo of keys: one matrix product, a mask, a softmax and a second product.
Memory is O(tokens). The backward pass is written out, since that of autograd scatters overlapping halos element by
element.

Both passes are custom operators: `torch.compile` treats each as opaque and does not trace how the mask is made, which
crashes inductor.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from hdit_core.devices import at_least_float32
from hdit_core.model.attention.interface import KernelTarget


@dataclass(frozen=True)
class Axis:
    """The division of one grid axis into tiles of queries and overlapping halos of keys.

    Attributes:
        size: length of the axis in cells.
        tile: queries per tile.
        tiles: number of tiles; `tiles * tile >= size`.
        halo: keys per halo.
        front: cells of padding before the first key; halo i begins at index `i * tile` of the padded keys.
    """

    size: int
    tile: int
    tiles: int
    halo: int
    front: int

    @property
    def whole(self) -> bool:
        """Whether the axis is a single tile, which is its own halo."""
        return self.tiles == 1

    @property
    def padded(self) -> int:
        """Number of cells from the start of the first halo to the end of the last."""
        return (self.tiles - 1) * self.tile + self.halo

    def allowed(self, kernel_size: int, device: torch.device) -> Bool[Tensor, "tiles tile halo"]:
        """Return which keys of its halo each query attends to; padded queries attend to the keys of the last one."""
        tile = torch.arange(self.tiles, device=device)[:, None, None] * self.tile
        query = tile + torch.arange(self.tile, device=device)[None, :, None]
        key = tile + torch.arange(self.halo, device=device)[None, None, :] - self.front
        first = (query - kernel_size // 2).clamp(0, self.size - kernel_size)
        return (key >= first) & (key < first + kernel_size)


def divide_axis(size: int, kernel_size: int, preferred: int) -> Axis:
    """Return tiles of about the preferred size for an axis, or a single tile if a halo would span the axis."""
    smallest = kernel_size // 2 + 1  # otherwise a window at a border would leave its tile's halo
    tile = max(smallest, math.ceil(size / math.ceil(size / max(preferred, smallest))))
    tiles = math.ceil(size / tile)
    over = tiles * tile - size
    halo = tile + kernel_size - 1 + over
    if halo >= size:
        return Axis(size, tile=size, tiles=1, halo=size, front=0)
    return Axis(size, tile, tiles, halo, front=kernel_size // 2 + over)


@lru_cache(maxsize=32)
def tile_mask(
    rows: Axis, columns: Axis, kernel_size: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "tiles queries keys"]:
    """Return the additive mask of each tile's logits: 0, or minus infinity for keys outside of the query's window."""
    row = rearrange(rows.allowed(kernel_size, device), "i t h -> i 1 t 1 h 1")
    column = rearrange(columns.allowed(kernel_size, device), "j u w -> 1 j 1 u 1 w")
    allowed = rearrange(row & column, "i j t u h w -> (i j) (t u) (h w)")
    return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill_(~allowed, -math.inf)


def to_tiles(x: Float[Tensor, "B H W N D"], rows: Axis, columns: Axis) -> Float[Tensor, "BNT queries D"]:
    """Return queries in tile order; padding is zero."""
    over = (rows.tiles * rows.tile - rows.size, columns.tiles * columns.tile - columns.size)
    if any(over):
        x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, over[1], 0, over[0]))
    return rearrange(x, "b (i t) (j u) n d -> (b n i j) (t u) d", t=rows.tile, u=columns.tile)


def from_tiles(
    tiles: Float[Tensor, "BNT queries D"], rows: Axis, columns: Axis, heads: int
) -> Float[Tensor, "B H W N D"]:
    """Return queries in grid order without padding: the inverse of `to_tiles`."""
    sizes = {"n": heads, "i": rows.tiles, "j": columns.tiles, "t": rows.tile}
    grid = rearrange(tiles, "(b n i j) (t u) d -> b (i t) (j u) n d", **sizes)
    return grid[:, : rows.size, : columns.size].contiguous()


def to_halos(x: Float[Tensor, "B H W N D"], rows: Axis, columns: Axis) -> Float[Tensor, "BNT keys D"]:
    """Return keys or values in halo order; cells outside of the grid are zero, and masked."""
    if rows.whole and columns.whole:
        return to_tiles(x, rows, columns)
    batch, height, width, heads, features = x.shape
    padded = x.new_zeros(batch * heads, rows.padded, columns.padded, features)
    grid = padded[:, rows.front : rows.front + height, columns.front : columns.front + width]
    grid.unflatten(0, (batch, heads)).copy_(rearrange(x, "b h w n d -> b n h w d"))
    halos = padded.unfold(1, rows.halo, rows.tile).unfold(2, columns.halo, columns.tile)
    return rearrange(halos, "bn i j d h w -> (bn i j) (h w) d")


def from_halos(halos: Float[Tensor, "BNT keys D"], rows: Axis, columns: Axis, heads: int) -> Float[Tensor, "B H W N D"]:
    """Return the sum over all halos that contain a key: the transpose of `to_halos`.

    A halo is larger than a tile. It is split into parts of a tile's size; the same part of all halos, which do not
    overlap, is added in one operation.
    """
    if rows.whole and columns.whole:
        return from_tiles(halos, rows, columns, heads)
    sizes = {"i": rows.tiles, "j": columns.tiles, "h": rows.halo, "w": columns.halo}
    parts = rearrange(halos, "(bn i j) (h w) d -> bn i h j w d", **sizes)
    reach = [axis.tiles + math.ceil(axis.halo / axis.tile) - 1 for axis in (rows, columns)]
    total = halos.new_zeros(parts.shape[0], reach[0] * rows.tile, reach[1] * columns.tile, parts.shape[-1])
    blocks = rearrange(total, "bn (i t) (j u) d -> bn i t j u d", t=rows.tile, u=columns.tile)
    for a in range(0, rows.halo, rows.tile):
        height, i = min(rows.tile, rows.halo - a), a // rows.tile
        for b in range(0, columns.halo, columns.tile):
            width, j = min(columns.tile, columns.halo - b), b // columns.tile
            target = blocks[:, i : i + rows.tiles, :height, j : j + columns.tiles, :width]
            target += parts[:, :, a : a + height, :, b : b + width]
    grid = total[:, rows.front : rows.front + rows.size, columns.front : columns.front + columns.size]
    return rearrange(grid, "(b n) h w d -> b h w n d", n=heads).contiguous()


TILE = (4, 8)  # rows and columns of queries; measured best among 2..16 for kernels of 5 to 9


def unavailable(target: KernelTarget) -> str | None:
    """Return None: the tiled backend runs on every target."""
    return None


def describe(target: KernelTarget) -> str:
    """Return the backend's name in the log."""
    return f"tiled ({target.device_name})"


def divide_grid(x: Tensor, kernel_size: int) -> tuple[Axis, Axis]:
    """Return the tiles along the rows and the columns of a `[B, H, W, N, D]` tensor."""
    return divide_axis(x.shape[1], kernel_size, TILE[0]), divide_axis(x.shape[2], kernel_size, TILE[1])


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of all matrix products except queries x keys, which is computed in at least float32.

    16-bit logits of 10 have an error of 1 %; after the softmax, 16-bit products lose no more than the rounding of the
    result. On a CPU 16-bit products are slower than float32.
    """
    return at_least_float32(x.dtype) if x.device.type == "cpu" else x.dtype


def plain(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Return the output and the weights, without the custom operator, which exported programs cannot contain."""
    rows, columns = divide_grid(q, kernel_size)
    heads, high, low = q.shape[3], at_least_float32(q.dtype), product_dtype(q)
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
    rows, columns = divide_grid(q, kernel_size)
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
    rows, columns = divide_grid(q, kernel_size)
    tiles = q.shape[0] * q.shape[3] * rows.tiles * columns.tiles
    weights = q.new_empty(tiles, rows.tile * columns.tile, rows.halo * columns.halo, dtype=at_least_float32(q.dtype))
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
    """Return the FLOPs of two products of all queries with the keys of their windows; masked products do not count."""
    return 4 * q.numel() * kernel_size**2


@register_flop_formula(torch.ops.hdit.tiled_attention_backward)
def _backward_flops(grad: torch.Size, q: torch.Size, *rest: Any, **outputs: Any) -> int:
    """Return the FLOPs of four such products: gradients of the weights, and of q, k and v."""
    return 8 * q.numel() * rest[-1] ** 2


def attend(
    q: Float[Tensor, "B H W N D"], k: Float[Tensor, "B H W N D"], v: Float[Tensor, "B H W N D"], kernel_size: int
) -> Float[Tensor, "B H W N D"]:
    """Return neighborhood attention; see `neighborhood_attention`, which checks the arguments.

    A second derivative raises RuntimeError.
    """
    attended, _ = _forward(q, k, v, kernel_size)
    return attended
