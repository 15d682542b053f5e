"""Global attention, and the type of all attention operators, which define the tokens that attend to each other.

An operator maps queries, keys and values `[B, H, W, N, D]` to an output of the same shape. Logits are the plain
products of queries and keys, which are already scaled (see `qk_norm_rope.py`).
"""

from collections.abc import Callable

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Operator = Callable[[Tensor, Tensor, Tensor], Tensor]


def global_attention(
    q: Float[Tensor, "B H W N D"], k: Float[Tensor, "B H W N D"], v: Float[Tensor, "B H W N D"]
) -> Float[Tensor, "B H W N D"]:
    """Return the attention of every token to every token; q and k are already scaled."""
    _, height, width, _, _ = q.shape
    q, k, v = (rearrange(x, "b h w n d -> b n (h w) d") for x in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return rearrange(attended, "b n (h w) d -> b h w n d", h=height, w=width)
