"""Shifted-window attention (Swin, Liu et al. 2021, arXiv 2103.14030): row B1 of table 1 of the HDiT paper."""

from functools import lru_cache
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hdit_core.model.native.windows import Layout
from hdit_core.model.rotary_embedding import Rotation


def window_mask(
    height: int, width: int, window_size: int, shift: int, device: torch.device
) -> Bool[Tensor, "windows L L"]:
    """Return which tokens of each window may attend to each other, for a grid that was rolled by `shift`.

    Windows at the top and at the left contain tokens that wrapped around from the opposite side; these and the other
    tokens do not attend to each other. Windows, and the tokens in them, are in row-major order.
    """
    wrapped = [torch.arange(size, device=device) < shift for size in (height, width)]
    region = wrapped[0][:, None] * 2 + wrapped[1][None, :]
    region = rearrange(region, "(a p) (b q) -> (a b) (p q)", p=window_size, q=window_size)
    return region[:, :, None] == region[:, None, :]


_cached_window_mask = lru_cache(maxsize=64)(window_mask)

Indices = Int64[Tensor, " BT"]


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # training may use cached tensors that were made during sampling
def window_order(
    batch: int, height: int, width: int, window_size: int, shift: int, device: torch.device
) -> tuple[Indices, Indices]:
    """Return the permutation of a batch's tokens from row-major order to window order, and its inverse."""
    grid = torch.arange(height * width, device=device).reshape(height, width).roll((shift, shift), (0, 1))
    order = rearrange(grid, "(a p) (b q) -> (a b p q)", p=window_size, q=window_size)
    first = torch.arange(batch, device=device)[:, None] * (height * width)
    return (first + order).flatten(), (first + order.argsort()).flatten()


@lru_cache(maxsize=64)
def _identity_order(rows: int) -> Indices:
    return torch.arange(rows)


def one_window(x: Float[Tensor, "B H W C"], rotation: Rotation) -> Layout:
    """Return the layout with the whole grid as one window: all tokens attend to each other."""
    tokens = x.shape[1] * x.shape[2]
    cos, sin = (part.contiguous() for part in rotation)
    return Layout(_identity_order(len(x) * tokens), 1, tokens, cos, sin, None)


class Permuted(torch.autograd.Function):
    """Permutes rows. Its backward pass applies the inverse permutation; autograd would accumulate row by row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        """Return the rows of x in the given order; `back` is the inverse permutation."""
        ctx.save_for_backward(back)
        return x.index_select(0, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x."""
        (back,) = ctx.saved_tensors
        return grad.contiguous().index_select(0, back), None, None


def shifted_window_attention(
    q: Float[Tensor, "B H W N D"],
    k: Float[Tensor, "B H W N D"],
    v: Float[Tensor, "B H W N D"],
    window_size: int,
    shift: int,
) -> Float[Tensor, "B H W N D"]:
    """Return the attention of each token to its window; window borders are `shift` cells before multiples of the size.

    Raises:
        ValueError: the window does not divide the grid.
    """
    _, height, width, heads, _ = q.shape
    if height % window_size or width % window_size:
        raise ValueError(f"window_size = {window_size} does not divide the {height}x{width} grid")
    sizes = {"a": height // window_size, "b": width // window_size, "n": heads, "p": window_size, "q": window_size}
    if shift:
        q, k, v = (torch.roll(x, (shift, shift), dims=(1, 2)) for x in (q, k, v))

    # windows share an axis with heads: the fast kernels require four axes
    q, k, v = (rearrange(x, "i (a p) (b q) n d -> i (a b n) (p q) d", p=window_size, q=window_size) for x in (q, k, v))
    mask = None
    if shift:
        make = window_mask if torch.compiler.is_compiling() else _cached_window_mask  # tracing ignores lru_cache
        mask = repeat(make(height, width, window_size, shift, q.device), "ab l m -> 1 (ab n) l m", n=heads)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)

    attended = rearrange(attended, "i (a b n) (p q) d -> i (a p) (b q) n d", **sizes)
    return torch.roll(attended, (-shift, -shift), dims=(1, 2)) if shift else attended


class ShiftedWindows:
    """The shifted-window operator of a layer, and conversion of tokens to and from window order.

    In grid order the operator rolls and copies queries, keys and values, each of them twice. A block that arranges its
    tokens in window order before the QKV projection, and restores them at its end, copies tokens twice in total.
    """

    def __init__(self, window_size: int, shift: int) -> None:
        self.window_size, self.shift = window_size, shift
        self._rotation: tuple[Rotation, Rotation] | None = None

    def __call__(
        self, q: Float[Tensor, "B H W N D"], k: Float[Tensor, "B H W N D"], v: Float[Tensor, "B H W N D"]
    ) -> Float[Tensor, "B H W N D"]:
        return shifted_window_attention(q, k, v, self.window_size, self.shift)

    def arrange(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B windows L C"]:
        """Return the tokens in window order.

        Raises:
            ValueError: the window does not divide the grid.
        """
        order, back = self._order(x.shape[0], x.shape[1], x.shape[2], x.device)
        rows = Permuted.apply(rearrange(x, "b h w c -> (b h w) c"), order, back)
        return rows.reshape(len(x), -1, self.window_size**2, x.shape[-1])

    def layout(self, x: Float[Tensor, "B H W C"], rotation: Rotation) -> Layout:
        """Return the windows of a grid's tokens and their rotations.

        Raises:
            ValueError: the window does not divide the grid.
        """
        images, height, width, _ = x.shape
        order, _ = self._order(images, height, width, x.device)
        allowed = _cached_window_mask(height, width, self.window_size, self.shift, x.device) if self.shift else None
        tokens = self.window_size**2
        cos, sin = (part.contiguous() for part in rotation)
        return Layout(order, height * width // tokens, tokens, cos, sin, allowed)

    def restore(self, x: Float[Tensor, "B windows L C"], height: int, width: int) -> Float[Tensor, "B H W C"]:
        """Return the tokens in grid order: the inverse of `arrange`."""
        order, back = self._order(len(x), height, width, x.device)
        rows = Permuted.apply(rearrange(x, "b ab pq c -> (b ab pq) c"), back, order)
        return rearrange(rows, "(b h w) c -> b h w c", h=height, w=width)

    @torch.inference_mode(False)
    def arranged(self, rotation: Rotation) -> Rotation:
        """Return the cosines and sines in window order `[windows, L, N, _]`; the last result is cached."""
        if self._rotation is None or self._rotation[0][0] is not rotation[0]:
            cos, sin = (self.arrange(rearrange(x, "h w n f -> 1 h w (n f)")) for x in rotation)
            heads = rotation[0].shape[2]
            cos, sin = (rearrange(x, "1 ab l (n f) -> ab l n f", n=heads) for x in (cos, sin))
            self._rotation = rotation, (cos, sin)
        return self._rotation[1]

    def within(
        self,
        q: Float[Tensor, "B windows L N D"],
        k: Float[Tensor, "B windows L N D"],
        v: Float[Tensor, "B windows L N D"],
        height: int,
        width: int,
    ) -> Float[Tensor, "B windows L N D"]:
        """Return the attention within windows; `height` and `width` are those of the grid."""
        mask = None
        if self.shift:
            allowed = _cached_window_mask(height, width, self.window_size, self.shift, q.device)
            mask = repeat(allowed, "ab l m -> (b ab) 1 l m", b=len(q))
        q, k, v = (rearrange(x, "b ab l n d -> (b ab) n l d") for x in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        windows = height * width // self.window_size**2
        return rearrange(attended, "(b ab) n l d -> b ab l n d", ab=windows)

    def _order(self, batch: int, height: int, width: int, device: torch.device) -> tuple[Indices, Indices]:
        if height % self.window_size or width % self.window_size:
            raise ValueError(f"window_size = {self.window_size} does not divide the {height}x{width} grid")
        return window_order(batch, height, width, self.window_size, self.shift, device)
