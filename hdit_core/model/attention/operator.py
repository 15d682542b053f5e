"""Attention operators, which define the tokens that attend to each other, and the operator of each layer.

An operator maps queries, keys and values `[B, H, W, N, D]` to an output of the same shape. Logits are the plain
products of queries and keys, which are already scaled (see `qk_norm.py`).
"""

from collections.abc import Callable
from functools import partial

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hdit_core.model.attention.neighborhood import neighborhood_attention
from hdit_core.model.attention.shifted_window import ShiftedWindows
from hdit_core.recipe.model import AttentionBackend, LevelRecipe

Operator = Callable[[Tensor, Tensor, Tensor], Tensor]


def global_attention(
    q: Float[Tensor, "B H W N D"], k: Float[Tensor, "B H W N D"], v: Float[Tensor, "B H W N D"]
) -> Float[Tensor, "B H W N D"]:
    """Return the attention of every token to every token; q and k are already scaled."""
    _, height, width, _, _ = q.shape
    q, k, v = (rearrange(x, "b h w n d -> b n (h w) d") for x in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return rearrange(attended, "b n (h w) d -> b h w n d", h=height, w=width)


def attention_operator(level: LevelRecipe, layer: int, backend: AttentionBackend = "auto") -> Operator | None:
    """Return the operator of a layer, or None if its level has no attention.

    Args:
        level: the level's recipe.
        layer: the index of the layer in its level, counted through encoder and then decoder layers. Odd layers of
            shifted-window attention shift by half a window.
        backend: of neighborhood attention; "auto": the best one for the tensors' device.
    """
    shift = level.window_size // 2 if layer % 2 else 0
    operators: dict[str, Operator | None] = {
        "global": global_attention,
        "neighborhood": partial(neighborhood_attention, kernel_size=level.kernel_size, backend=backend),
        "shifted-window": ShiftedWindows(level.window_size, shift),
        "none": None,
    }
    return operators[level.attention]
