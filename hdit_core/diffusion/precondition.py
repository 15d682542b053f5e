"""The denoiser that a network becomes (EDM, section 5; HDiT, section 4.5); by what scalings, `objective.py` says."""

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hdit_core.diffusion.objective import scalings
from hdit_core.recipe.run import Recipe


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which noise levels and statistics beside tensors of `dtype` are computed."""
    return torch.promote_types(dtype, torch.float32)


class Denoiser(nn.Module):
    """The network with its scalings: the expected clean image, given a noisy one."""

    def __init__(self, network: nn.Module, recipe: Recipe):
        """
        Args:
            network: `network(x, sigma, class_ids, augment_cond, mapping_cond) -> F`, handed an already scaled x.
            recipe: whose `diffusion.sigma_data` and `diffusion.objective` the scalings use.
        """
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.sigma_data = recipe.diffusion.sigma_data
        self.objective = recipe.diffusion.objective

    def raw(
        self,
        x: Float[Tensor, "B C H W"],
        sigma: Float[Tensor, "B"],
        class_ids: Int64[Tensor, "B"] | None = None,
        augment_cond: Float[Tensor, "B 9"] | None = None,
        mapping_cond: Float[Tensor, "B E"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """Return F(c_in x, sigma), what the network itself answers to a noisy image. Arguments as in `forward`."""
        sigma = sigma.to(at_least_float32(x.dtype))
        _, _, c_in = scalings(rearrange(sigma, "b -> b 1 1 1"), self.sigma_data, self.objective)
        return self.network((x * c_in).to(x.dtype), sigma, class_ids, augment_cond, mapping_cond)

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        sigma: Float[Tensor, "B"],
        class_ids: Int64[Tensor, "B"] | None = None,
        augment_cond: Float[Tensor, "B 9"] | None = None,
        mapping_cond: Float[Tensor, "B E"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """Return the denoised images D(x, sigma), in the type of x.

        Args:
            x: clean image in [-1, 1] plus sigma times standard normal noise, not scaled.
            sigma: noise level of each image, positive.
            class_ids: class of each image; `num_classes` means no class.
            augment_cond: the nine parameters of the augmentation; left out, zeros.
            mapping_cond: the extra conditioning vector, for models that have one.
        """
        answer = self.raw(x, sigma, class_ids, augment_cond, mapping_cond)
        sigma = sigma.to(at_least_float32(x.dtype))
        c_skip, c_out, _ = scalings(rearrange(sigma, "b -> b 1 1 1"), self.sigma_data, self.objective)
        return (c_skip * x + c_out * answer).to(x.dtype)
