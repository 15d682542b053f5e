"""Neighborhood attention with torch's compiled FlexAttention (Dong et al. 2024, arXiv 2412.05496) on CUDA.

FlexAttention skips blocks of 128 queries x 128 keys that are fully masked. In row-major order 128 tokens form a thin
strip whose windows touch many blocks, so tokens are reordered into tiles of 8 x 16, the squarest with 128 tokens.
With a 7 x 7 kernel each tile then attends to 3 x 3 tiles, for any grid size. FlexAttention's kernels are tuned for
blocks of 128; smaller blocks would fit the windows better but underuse the tensor cores.

A grid that the tiles do not divide is padded: padded keys are masked, and outputs of padded queries are dropped.
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

TILE = (8, 16)  # tokens: height, width
BLOCK = TILE[0] * TILE[1]
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MIN_HEAD_DIM = 16  # of its compiled kernels
MAX_COMPILED_SHAPES = 256  # per process: levels x batch sizes x image sizes

Grid = tuple[int, int, int, str]  # height, width, kernel_size, device


def unavailable(target: KernelTarget) -> str | None:
    """Return why FlexAttention cannot run on a CUDA target, or None if it can."""
    if target.dtype not in DTYPES:
        return f"FlexAttention supports float16, bfloat16 and float32, found {target.dtype_name}"
    if target.head_dim < MIN_HEAD_DIM:
        return f"FlexAttention supports head_dim of at least {MIN_HEAD_DIM}, found {target.head_dim}"
    failure = self_test(attend, target)
    return failure and f"FlexAttention {failure}"


def describe(target: KernelTarget) -> str:
    """Return the backend's name in the log."""
    return f"FlexAttention of torch {torch.__version__}, compiled ({target.device_name})"


def attended_tiles(size: int, tile: int, kernel_size: int) -> Bool[Tensor, "tiles tiles"]:
    """Return, along one axis, whether any query of a tile [rows] attends to any key of a tile [columns]."""
    tiles = -(-size // tile)
    first_query = torch.arange(tiles) * tile
    last_query = (first_query + tile - 1).clamp(max=size - 1)
    first_key = (first_query - kernel_size // 2).clamp(0, size - kernel_size)
    last_key = (last_query - kernel_size // 2).clamp(0, size - kernel_size) + kernel_size - 1
    key_tile = torch.arange(tiles)
    return (key_tile >= first_key[:, None] // tile) & (key_tile <= last_key[:, None] // tile)


def block_mask(height: int, width: int, kernel_size: int, device: str) -> BlockMask:
    """Return the mask of a grid in tile order: the blocks to visit, and a mask function for use inside blocks."""
    rows, columns = attended_tiles(height, TILE[0], kernel_size), attended_tiles(width, TILE[1], kernel_size)
    visited = rearrange(rows[:, None, :, None] & columns[None, :, None, :], "i j a b -> 1 1 (i j) (a b)")
    counts = visited.sum(-1, dtype=torch.int32).to(device)
    indices = visited.int().argsort(dim=-1, descending=True, stable=True).int().to(device)

    # the position of each token and the first key of its window
    token = torch.arange(counts.shape[-1] * BLOCK, device=device)
    row = token // BLOCK // len(columns) * TILE[0] + token % BLOCK // TILE[1]
    column = token // BLOCK % len(columns) * TILE[1] + token % TILE[1]
    top = (row - kernel_size // 2).clamp(0, height - kernel_size)
    left = (column - kernel_size // 2).clamp(0, width - kernel_size)

    def in_window(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        dy, dx = row[key] - top[query], column[key] - left[query]
        return (dy >= 0) & (dy < kernel_size) & (dx >= 0) & (dx < kernel_size)

    lengths = len(token), len(token)
    return BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=BLOCK, mask_mod=in_window, seq_lengths=lengths)


MASKS: dict[Grid, BlockMask] = {}
"""The masks built so far. None is ever removed: graphs traced by torch.compile keep reading them from this dict."""


@torch.compiler.assume_constant_result
def _make_mask(grid: Grid) -> bool:
    """Build the grid's mask if it is missing. Under torch.compile this runs during tracing, outside of the graph.

    Returns:
        Always True: a traced call needs a constant result.
    """
    if grid not in MASKS:
        with torch.inference_mode(False):  # otherwise training steps could not use the mask
            MASKS[grid] = block_mask(*grid)
    return True


def to_blocks(x: Float[Tensor, "B H W N D"]) -> Float[Tensor, "B N L D"]:
    """Return tokens in tile order, L = padded H x W; padding is zero."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[2] % TILE[1], 0, -x.shape[1] % TILE[0]))
    return rearrange(x, "b (i t) (j u) n d -> b n (i j t u) d", t=TILE[0], u=TILE[1])


def from_blocks(blocks: Float[Tensor, "B N L D"], height: int, width: int) -> Float[Tensor, "B H W N D"]:
    """Return tokens in grid order without padding: the inverse of `to_blocks`."""
    sizes = {"t": TILE[0], "u": TILE[1], "j": -(-width // TILE[1])}
    return rearrange(blocks, "b n (i j t u) d -> b (i t) (j u) n d", **sizes)[:, :height, :width]


_compiled = torch.compile(flex_attention, fullgraph=True, dynamic=False)


@torch._dynamo.config.patch(recompile_limit=MAX_COMPILED_SHAPES)
def _compiled_attend(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
    attended: Tensor = _compiled(q, k, v, block_mask=mask, scale=1.0)
    return attended


def _plain_attend(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
    attended: Tensor = flex_attention(q, k, v, block_mask=mask, scale=1.0)
    return attended


def attend(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    """Return neighborhood attention `[B, H, W, N, D]`; see `neighborhood_attention`, which checks the arguments.

    Compiled by itself, or with the network if torch.compile is tracing that: uncompiled, FlexAttention would form the
    logits of all pairs of tokens. The first call for a shape on a GPU therefore takes some seconds.
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
    """Return neighborhood attention, computed by `plain(q, k, v, mask)` on tokens in tile order."""
    height, width = q.shape[1:3]
    grid = height, width, kernel_size, str(q.device)
    _make_mask(grid)
    return from_blocks(plain(to_blocks(q), to_blocks(k), to_blocks(v), MASKS[grid]), height, width)
