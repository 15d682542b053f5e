"""Which tokens attend to which: operators, functions of (q, k, v), and the choice of one for a layer.

An operator takes queries, keys and values `[B, H, W, N, D]` and returns as much; logits are the plain products of
queries and keys, which carry their scale already (see `similarity.py`).
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
    """Every token attends to every token."""
    _, height, width, _, _ = q.shape
    q, k, v = (rearrange(x, "b h w n d -> b n (h w) d") for x in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return rearrange(attended, "b n (h w) d -> b h w n d", h=height, w=width)


def attention_operator(level: LevelRecipe, layer: int, backend: AttentionBackend = "auto") -> Operator | None:
    """Return the operator of a level's layer, None where the level has no attention.

    Args:
        level: the level's recipe.
        layer: the layer's place in its level; the way up goes on counting where the way down ended. Shifted windows
            are shifted, by half a window, in odd layers.
        backend: who computes neighborhood attention; "auto": the best on the device of the tensors.
    """
    shift = level.window_size // 2 if layer % 2 else 0
    operators: dict[str, Operator | None] = {
        "global": global_attention,
        "neighborhood": partial(neighborhood_attention, kernel_size=level.kernel_size, backend=backend),
        "shifted-window": ShiftedWindows(level.window_size, shift),
        "none": None,
    }
    return operators[level.attention]
