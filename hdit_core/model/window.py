"""Shifted-window attention (Liu et al. 2021, arXiv 2103.14030; hdit-facts 4.8): the paper's row B1."""

from functools import lru_cache

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def window_mask(
    height: int, width: int, window_size: int, shift: int, device: torch.device
) -> Bool[Tensor, "windows L L"]:
    """Return which of a window's tokens may attend to which, after the grid was rolled by `shift`.

    Windows at the top and at the left hold tokens that came round from the opposite side; those and the others do not
    see each other. Windows are counted row by row, and so are the tokens within.
    """
    came_round = [torch.arange(size, device=device) < shift for size in (height, width)]
    region = came_round[0][:, None] * 2 + came_round[1][None, :]
    region = rearrange(region, "(a p) (b q) -> (a b) (p q)", p=window_size, q=window_size)
    return region[:, :, None] == region[:, None, :]


_kept_window_mask = lru_cache(maxsize=64)(window_mask)


def shifted_window_attention(
    q: Float[Tensor, "B H W N D"],
    k: Float[Tensor, "B H W N D"],
    v: Float[Tensor, "B H W N D"],
    window_size: int,
    shift: int,
) -> Float[Tensor, "B H W N D"]:
    """Each token attends to its window; borders of windows lie `shift` cells before the multiples of their size.

    Raises:
        ValueError: the window does not divide the grid.
    """
    _, height, width, heads, _ = q.shape
    if height % window_size or width % window_size:
        raise ValueError(f"window_size = {window_size} does not divide the {height}x{width} grid")
    sizes = {"a": height // window_size, "b": width // window_size, "n": heads, "p": window_size, "q": window_size}
    if shift:
        q, k, v = (torch.roll(x, (shift, shift), dims=(1, 2)) for x in (q, k, v))

    # windows stand beside heads: four axes are what the fast kernels take
    q, k, v = (rearrange(x, "i (a p) (b q) n d -> i (a b n) (p q) d", p=window_size, q=window_size) for x in (q, k, v))
    mask = None
    if shift:
        make = window_mask if torch.compiler.is_compiling() else _kept_window_mask  # a trace looks through any cache
        mask = repeat(make(height, width, window_size, shift, q.device), "ab l m -> 1 (ab n) l m", n=heads)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)

    attended = rearrange(attended, "i (a b n) (p q) d -> i (a p) (b q) n d", **sizes)
    return torch.roll(attended, (-shift, -shift), dims=(1, 2)) if shift else attended
