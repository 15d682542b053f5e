"""Patching, and merging and splitting of tokens (HDiT paper, section 3.1).

A block of p x q cells becomes one token by concatenating its features in row-major order, followed by a linear map.
"""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdit_core.model.linear import Initial, Linear, uniform_fan_in


class TokenMerge(nn.Module):
    """Merges blocks of p x q cells into tokens."""

    def __init__(self, width_in: int, width_out: int, block: tuple[int, int]) -> None:
        super().__init__()
        self.block = block
        self.proj = Linear(width_in * block[0] * block[1], width_out)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H2 W2 C2"]:
        """Return the merged tokens."""
        p, q = self.block
        return self.proj(rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=p, q=q))


class TokenSplit(nn.Module):
    """Splits each token into p x q cells, by default 2 x 2 as between levels."""

    def __init__(
        self, width_in: int, width_out: int, block: tuple[int, int] = (2, 2), initial: Initial = uniform_fan_in
    ) -> None:
        super().__init__()
        self.block = block
        self.proj = Linear(width_in, width_out * block[0] * block[1], initial)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H2 W2 C2"]:
        """Return the cells."""
        p, q = self.block
        return rearrange(self.proj(x), "b h w (p q c) -> b (h p) (w q) c", p=p, q=q)
