"""Neighborhood attention by torch's FlexAttention (Dong et al. 2024, arXiv 2412.05496), compiled, on CUDA.

FlexAttention passes over whole blocks of 128 queries and 128 keys that the mask leaves empty. Row by row, 128 tokens
are a thin strip, whose windows touch many blocks; so tokens are laid out in tiles of 8 x 16, the squarest of 128.
With the 7 x 7 kernel each then sees 3 x 3 tiles, whatever the size of the grid. 128 is the size that its kernels are
tuned for; smaller ones would fit the window closer and starve the matrix units.

A grid that tiles do not divide is padded; no query sees a padded key, and what padded queries see is cut off.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from hdit_core.model.attention.interface import KernelTarget
from hdit_core.model.attention.self_test import self_test

TILE = (8, 16)  # rows and columns of tokens
BLOCK = TILE[0] * TILE[1]
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LEAST_HEAD_DIM = 16  # what its compiled kernels take
MOST_SHAPES = 256  # compiled in one process: levels x batch sizes x image sizes

Grid = tuple[int, int, int, str]  # height, width, kernel_size, device


def unavailable(target: KernelTarget) -> str | None:
    """Return what is missing for it at a CUDA device, None where it can run."""
    if target.dtype not in DTYPES:
        return f"FlexAttention takes float16, bfloat16 and float32, found {target.dtype_name}"
    if target.head_dim < LEAST_HEAD_DIM:
        return f"FlexAttention takes head_dim from {LEAST_HEAD_DIM} on, found {target.head_dim}"
    wrong = self_test(attend, target)
    return wrong and f"FlexAttention {wrong}"


def describe(target: KernelTarget) -> str:
    """Return its name for the log."""
    return f"FlexAttention of torch {torch.__version__}, compiled ({target.device_name})"


def seen_tiles(size: int, tile: int, kernel_size: int) -> Bool[Tensor, "tiles tiles"]:
    """Return which tiles of keys along one axis the queries of each tile see anything of."""
    tiles = -(-size // tile)
    first_query = torch.arange(tiles) * tile
    last_query = (first_query + tile - 1).clamp(max=size - 1)
    first_key = (first_query - kernel_size // 2).clamp(0, size - kernel_size)
    last_key = (last_query - kernel_size // 2).clamp(0, size - kernel_size) + kernel_size - 1
    key_tile = torch.arange(tiles)
    return (key_tile >= first_key[:, None] // tile) & (key_tile <= last_key[:, None] // tile)


def block_mask(height: int, width: int, kernel_size: int, device: str) -> BlockMask:
    """Return the mask of a grid whose tokens lie tile by tile: the blocks to visit, and what is seen inside of them."""
    rows, columns = seen_tiles(height, TILE[0], kernel_size), seen_tiles(width, TILE[1], kernel_size)
    seen = rearrange(rows[:, None, :, None] & columns[None, :, None, :], "i j a b -> 1 1 (i j) (a b)")
    counts = seen.sum(-1, dtype=torch.int32).to(device)
    places = seen.int().argsort(dim=-1, descending=True, stable=True).int().to(device)

    # where tokens are, and where their windows begin
    token = torch.arange(counts.shape[-1] * BLOCK, device=device)
    row = token // BLOCK // len(columns) * TILE[0] + token % BLOCK // TILE[1]
    column = token // BLOCK % len(columns) * TILE[1] + token % TILE[1]
    top = (row - kernel_size // 2).clamp(0, height - kernel_size)
    left = (column - kernel_size // 2).clamp(0, width - kernel_size)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        below, beside = row[key] - top[query], column[key] - left[query]
        return (below >= 0) & (below < kernel_size) & (beside >= 0) & (beside < kernel_size)

    lengths = len(token), len(token)
    return BlockMask.from_kv_blocks(counts, places, BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=lengths)


MASKS: dict[Grid, BlockMask] = {}
"""Those made so far. A graph that torch.compile traced goes on reading its masks here, so that none is ever dropped."""


@torch.compiler.assume_constant_result
def _make_mask(grid: Grid) -> bool:
    """See that the grid's mask is there. Under torch.compile this runs while tracing, and leaves nothing in the graph.

    Returns:
        Nothing of use; a traced call has to have a constant result.
    """
    if grid not in MASKS:
        with torch.inference_mode(False):  # or no training step could use it
            MASKS[grid] = block_mask(*grid)
    return True


def to_blocks(x: Float[Tensor, "B H W N D"]) -> Float[Tensor, "B N L D"]:
    """Lay tokens out tile by tile; what hangs over the grid is zero."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[2] % TILE[1], 0, -x.shape[1] % TILE[0]))
    return rearrange(x, "b (i t) (j u) n d -> b n (i j t u) d", t=TILE[0], u=TILE[1])


def from_blocks(blocks: Float[Tensor, "B N L D"], height: int, width: int) -> Float[Tensor, "B H W N D"]:
    """The reverse of `to_blocks`."""
    sizes = {"t": TILE[0], "u": TILE[1], "j": -(-width // TILE[1])}
    return rearrange(blocks, "b n (i j t u) d -> b (i t) (j u) n d", **sizes)[:, :height, :width]


_compiled = torch.compile(flex_attention, fullgraph=True, dynamic=False)


@torch._dynamo.config.patch(recompile_limit=MOST_SHAPES)
def _compiled_attend(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
    attended: Tensor = _compiled(q, k, v, block_mask=mask, scale=1.0)
    return attended


def _plain_attend(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
    attended: Tensor = flex_attention(q, k, v, block_mask=mask, scale=1.0)
    return attended


def attend(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    """Attend as `neighborhood_attention` says, `[B, H, W, N, D]`; the arguments are already checked.

    Compiled here, or with the network where torch.compile is tracing that. Not compiled it would form all products of
    all tokens; so its first call for a shape on a GPU takes some seconds.
    """
    plain = _plain_attend if torch.compiler.is_compiling() else _compiled_attend
    return attend_in_blocks(q, k, v, kernel_size, plain)


def attend_in_blocks(
    q: Float[Tensor, "B H W N D"],
    k: Float[Tensor, "B H W N D"],
    v: Float[Tensor, "B H W N D"],
    kernel_size: int,
    plain: Callable[[Tensor, Tensor, Tensor, BlockMask], Tensor],
) -> Float[Tensor, "B H W N D"]:
    """Lay tokens out in blocks, have them attended under the grid's mask, and lay the result out as it was."""
    height, width = q.shape[1:3]
    grid = height, width, kernel_size, str(q.device)
    _make_mask(grid)
    return from_blocks(plain(to_blocks(q), to_blocks(k), to_blocks(v), MASKS[grid]), height, width)
