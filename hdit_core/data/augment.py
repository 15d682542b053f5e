"""The nine-parameter augmentation of Karras et al. (2022, appendix F.2), as the reference of HDiT trains with it."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

NUM_PARAMETERS = 9


def augment(
    images: Float[Tensor, "B C H W"], seed: int, numbers: Sequence[int], probability: float
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B 9"]]:
    """Return images unchanged for now."""
    assert not probability
    return images, images.new_zeros(len(images), NUM_PARAMETERS)
