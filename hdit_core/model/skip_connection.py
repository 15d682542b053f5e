"""Skip connections: split tokens meet those of the encoder (HDiT paper, section 3.1; table 5)."""

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.model.linear import Linear, constant, nan_init
from hdit_core.model.tokens import TokenSplit
from hdit_core.recipe.model import Skip


class LerpSkip(TokenSplit):
    """Split tokens and skip, interpolated with one learned weight: the paper's design.

    The result is `(1 - f) * skip + f * up` as in the reference implementation; equation 2 of the paper swaps the
    weights. f is initialized to 1/2, where both agree.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out)
        self.mix = torch.nn.Parameter(nan_init(1))
        self.initial = {"mix": constant(0.5)}

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "B H W C"], skip: Float[Tensor, "B H2 W2 C2"]
    ) -> Float[Tensor, "B H2 W2 C2"]:
        """Return the interpolated tokens."""
        return torch.lerp(skip, super().forward(x), self.mix.to(x.dtype))


class AddSkip(TokenSplit):
    """Split tokens plus skip (row F2 of table 5)."""

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "B H W C"], skip: Float[Tensor, "B H2 W2 C2"]
    ) -> Float[Tensor, "B H2 W2 C2"]:
        """Return the sum."""
        return super().forward(x) + skip


class ConcatSkip(TokenSplit):
    """Split tokens and skip, concatenated and projected to the level's width, as in a U-Net (row F1)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out)
        self.join = Linear(2 * width_out, width_out)

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "B H W C"], skip: Float[Tensor, "B H2 W2 C2"]
    ) -> Float[Tensor, "B H2 W2 C2"]:
        """Return the projected tokens."""
        return self.join(torch.cat([super().forward(x), skip], dim=-1))


SKIPS: dict[Skip, type[LerpSkip] | type[AddSkip] | type[ConcatSkip]] = {
    "lerp": LerpSkip,
    "add": AddSkip,
    "concat": ConcatSkip,
}
"""Values of `model.skip`."""
