"""From pixels to tokens, from tokens to fewer and wider tokens, and back (HDiT paper, section 3.1; hdit-facts 4.10).

A block of p x q cells becomes one token by laying its features one after the other, rows first, and a linear map.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdit_core.model.linear import Initial, Linear, constant, nan_init, uniform_fan_in
from hdit_core.recipe.model import Skip


class TokenMerge(nn.Module):
    """p x q cells become one token."""

    def __init__(self, width_in: int, width_out: int, block: tuple[int, int]) -> None:
        super().__init__()
        self.block = block
        self.proj = Linear(width_in * block[0] * block[1], width_out)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H2 W2 C2"]:
        p, q = self.block
        return self.proj(rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=p, q=q))


class TokenSplit(nn.Module):
    """One token becomes p x q cells."""

    def __init__(
        self, width_in: int, width_out: int, block: tuple[int, int], initial: Initial = uniform_fan_in
    ) -> None:
        super().__init__()
        self.block = block
        self.proj = Linear(width_in, width_out * block[0] * block[1], initial)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H2 W2 C2"]:
        p, q = self.block
        return rearrange(self.proj(x), "b h w (p q c) -> b (h p) (w q) c", p=p, q=q)


class LerpSkip(TokenSplit):
    """Both are mixed by one learned share: the paper's design.

    The mix is `(1 - f) * skip + f * up`, as the reference computes it; equation 2 of the paper has it the other way
    round. It begins at 1/2, where both agree.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out, (2, 2))
        self.mix = torch.nn.Parameter(nan_init(1))
        self.initial = {"mix": constant(0.5)}

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "B H W C"], skip: Float[Tensor, "B H2 W2 C2"]
    ) -> Float[Tensor, "B H2 W2 C2"]:
        return torch.lerp(skip, super().forward(x), self.mix.to(x.dtype))


class AddSkip(TokenSplit):
    """Both are added up (row F2 of table 5)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out, (2, 2))

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "B H W C"], skip: Float[Tensor, "B H2 W2 C2"]
    ) -> Float[Tensor, "B H2 W2 C2"]:
        return super().forward(x) + skip


class ConcatSkip(TokenSplit):
    """Both stand side by side, and a linear map brings them back to the level's width, as in a U-Net (row F1)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out, (2, 2))
        self.join = Linear(2 * width_out, width_out)

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "B H W C"], skip: Float[Tensor, "B H2 W2 C2"]
    ) -> Float[Tensor, "B H2 W2 C2"]:
        return self.join(torch.cat([super().forward(x), skip], dim=-1))


SKIPS: dict[Skip, type[LerpSkip] | type[AddSkip] | type[ConcatSkip]] = {
    "lerp": LerpSkip,
    "add": AddSkip,
    "concat": ConcatSkip,
}
"""What a recipe can ask for as `model.skip`."""
