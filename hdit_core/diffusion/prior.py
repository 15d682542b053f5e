"""What the noise of the interpolation x = image + sigma * noise is: normal noise, or a prior image.

With a prior image p, such as a blurred or coarse version of the image, x_sigma = image + sigma * p is, up to its scale,
the straight line from the image to p: with t = 1 / (1 + sigma), x / (1 + sigma) = t image + (1 - t) p (PMRF, Ohayon et
al. 2025). The velocity of its probability flow is E[p | x] = (x - E[image | x]) / sigma, as with noise, whatever the
image and p have in common; so the loss, the preconditioning and every deterministic sampler remain valid. Samplers
that add noise do not: they assume that it is independent of the image.
"""

from jaxtyping import Float
from torch import Tensor

from hdit_core.recipe.diffusion import DiffusionRecipe
from hdit_core.recipe.run import Recipe


def start_of_flow(
    diffusion: DiffusionRecipe, noise: Float[Tensor, "B C H W"], condition: Float[Tensor, "B K H W"] | None
) -> Float[Tensor, "B C H W"]:
    """Return the noise, or with `start = "image"` the condition image plus `start_noise` times the noise.

    Args:
        diffusion: the recipe's table.
        noise: standard normal numbers.
        condition: of 1 channel, or of as many as the image.
    """
    if diffusion.start == "noise":
        return noise
    assert condition is not None  # the recipe's validation, and that of the conditions
    return condition + diffusion.start_noise * noise


def seen_condition(recipe: Recipe, condition: Float[Tensor, "B K H W"] | None) -> Float[Tensor, "B K H W"] | None:
    """Return the condition image for the network: None if it is only the start, which the network does not see."""
    is_start_alone = recipe.diffusion.start == "image" and not recipe.model.condition_channels
    return None if is_start_alone else condition
