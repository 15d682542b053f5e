"""Neighborhood attention cut in tiles: each tile of queries with its halo, all the keys that any of them can see.

    tile of queries   t rows            i t                  i t + t
    its halo          h = t + k - 1     i t - front  ...  i t - front + h          (the same along columns)

Where the tiles do not divide an axis, the last one hangs over; halos are that much longer at the front, since the last
queries look back further than the others.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """How one axis of the grid is cut.

    Attributes:
        size: cells.
        tile: queries of a tile; `tiles * tile >= size`.
        halo: keys of a halo.
        front: cells of padding before the first key; halo i begins at `i * tile` of the padded keys.
    """

    size: int
    tile: int
    tiles: int
    halo: int
    front: int

    @property
    def whole(self) -> bool:
        """Whether the axis is not cut at all: halos are tiles then."""
        return self.tiles == 1

    @property
    def padded(self) -> int:
        """Cells from the first halo's begin to the last one's end."""
        return (self.tiles - 1) * self.tile + self.halo

    def allowed(self, kernel_size: int, device: torch.device) -> Bool[Tensor, "tiles tile halo"]:
        """Return which keys of its halo each query may see; queries that hang over see what the last one sees."""
        tile = torch.arange(self.tiles, device=device)[:, None, None] * self.tile
        query = tile + torch.arange(self.tile, device=device)[None, :, None]
        key = tile + torch.arange(self.halo, device=device)[None, None, :] - self.front
        first = (query - kernel_size // 2).clamp(0, self.size - kernel_size)
        return (key >= first) & (key < first + kernel_size)


def cut(size: int, kernel_size: int, preferred: int) -> Axis:
    """Cut an axis in tiles of about the preferred size; one that is hardly longer than a halo stays whole."""
    least = kernel_size // 2 + 1  # or the window of a border would leave its tile's halo
    tile = max(least, math.ceil(size / math.ceil(size / max(preferred, least))))
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
    """Return what is added to the logits of each tile: 0, or minus infinity for a key out of the query's window."""
    row = rearrange(rows.allowed(kernel_size, device), "i t h -> i 1 t 1 h 1")
    column = rearrange(columns.allowed(kernel_size, device), "j u w -> 1 j 1 u 1 w")
    allowed = rearrange(row & column, "i j t u h w -> (i j) (t u) (h w)")
    return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill_(~allowed, -math.inf)


def to_tiles(x: Float[Tensor, "B H W N D"], rows: Axis, columns: Axis) -> Float[Tensor, "BNT queries D"]:
    """Lay queries out tile by tile; what hangs over the grid is zero."""
    over = (rows.tiles * rows.tile - rows.size, columns.tiles * columns.tile - columns.size)
    if any(over):
        x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, over[1], 0, over[0]))
    return rearrange(x, "b (i t) (j u) n d -> (b n i j) (t u) d", t=rows.tile, u=columns.tile)


def from_tiles(
    tiles: Float[Tensor, "BNT queries D"], rows: Axis, columns: Axis, heads: int
) -> Float[Tensor, "B H W N D"]:
    """The reverse of `to_tiles`."""
    sizes = {"n": heads, "i": rows.tiles, "j": columns.tiles, "t": rows.tile}
    grid = rearrange(tiles, "(b n i j) (t u) d -> b (i t) (j u) n d", **sizes)
    return grid[:, : rows.size, : columns.size].contiguous()


def to_halos(x: Float[Tensor, "B H W N D"], rows: Axis, columns: Axis) -> Float[Tensor, "BNT keys D"]:
    """Lay keys or values out halo by halo; what lies outside the grid is zero, and masked."""
    if rows.whole and columns.whole:
        return to_tiles(x, rows, columns)
    batch, height, width, heads, features = x.shape
    padded = x.new_zeros(batch * heads, rows.padded, columns.padded, features)
    grid = padded[:, rows.front : rows.front + height, columns.front : columns.front + width]
    grid.unflatten(0, (batch, heads)).copy_(rearrange(x, "b h w n d -> b n h w d"))
    halos = padded.unfold(1, rows.halo, rows.tile).unfold(2, columns.halo, columns.tile)
    return rearrange(halos, "bn i j d h w -> (bn i j) (h w) d")


def from_halos(halos: Float[Tensor, "BNT keys D"], rows: Axis, columns: Axis, heads: int) -> Float[Tensor, "B H W N D"]:
    """Add up what each key got from all the halos it is in: the transpose of `to_halos`.

    A halo is wider than a tile; it is cut in pieces of a tile's size, and one piece of all halos, which do not overlap,
    is added at once.
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
