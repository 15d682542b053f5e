"""The way back up: tokens are split in 2 x 2 and meet the skip connection (HDiT paper, section 3.1 and table 2)."""

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.model.initial import Linear, constant, unset
from hdit_core.model.tokens import TokenSplit
from hdit_core.recipe.model import Skip


class SkipSplit(TokenSplit):
    """Both are mixed by one learned share: the paper's design.

    The mix is `(1 - f) * skip + f * up`, as the reference computes it; equation 2 of the paper has it the other way
    round. It begins at 1/2, where both agree.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out, (2, 2))
        self.mix = torch.nn.Parameter(unset(1))
        self.initial = {"mix": constant(0.5)}

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "B H W C"], skip: Float[Tensor, "B H2 W2 C2"]
    ) -> Float[Tensor, "B H2 W2 C2"]:
        return torch.lerp(skip, super().forward(x), self.mix.to(x.dtype))


class AddSplit(TokenSplit):
    """Both are added up (row F2 of table 5)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out, (2, 2))

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "B H W C"], skip: Float[Tensor, "B H2 W2 C2"]
    ) -> Float[Tensor, "B H2 W2 C2"]:
        return super().forward(x) + skip


class ConcatSplit(TokenSplit):
    """Both stand side by side, and a linear map brings them back to the level's width, as in a U-Net (row F1)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out, (2, 2))
        self.join = Linear(2 * width_out, width_out)

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "B H W C"], skip: Float[Tensor, "B H2 W2 C2"]
    ) -> Float[Tensor, "B H2 W2 C2"]:
        return self.join(torch.cat([super().forward(x), skip], dim=-1))


MERGES: dict[Skip, type[SkipSplit] | type[AddSplit] | type[ConcatSplit]] = {
    "lerp": SkipSplit,
    "add": AddSplit,
    "concat": ConcatSplit,
}
"""What a recipe can ask for as `model.skip`."""
