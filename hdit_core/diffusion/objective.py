"""What the network is given and what it is asked for: three parametrisations of one denoiser.

A noisy image is x = x0 + sigma n, and D(x, sigma) = c_skip x + c_out F(c_in x, sigma) is the expected x0, whatever the
network's answer F means. So samplers, guidance and likelihood never hear of it. With d = sigma_data:

`edm` (Karras et al. 2022, table 1). With an angle t, tan t = sigma / d, the network sees the point
cos t (x0 / d) + sin t n of a circle, which has unit variance, and is asked for the direction towards the image,
sin t (x0 / d) - cos t n.

`flow` (Liu et al. 2022; Lipman et al. 2022). With a share s = sigma / (sigma + d) of noise, it sees the point
z = (1 - s) (x0 / d) + s n of a straight line, and is asked for the velocity towards the image, v = x0 / d - n. As
z = x / (sigma + d) and x0 = d (z + s v), the scalings are c_in = 1 / (sigma + d), c_skip = d c_in and c_out = d s. With
d = 1 this is flow matching on pixels as they are.

`x` (Li and He 2025, "Back to basics"). It sees the same z, and is asked for the image itself, x0 / d: c_skip = 0,
c_out = d. Noise fills all dimensions of a patch and images few of them: of patches with more numbers than the network
has features, noise and velocity cannot be told.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.recipe.diffusion import Objective

Scalings = tuple[Float[Tensor, "*B"], Float[Tensor, "*B"], Float[Tensor, "*B"]]


def _edm_scalings(sigma: Float[Tensor, "*B"], sigma_data: float) -> Scalings:
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt()


def _flow_scalings(sigma: Float[Tensor, "*B"], sigma_data: float) -> Scalings:
    total = sigma + sigma_data
    return sigma_data / total, sigma * sigma_data / total, 1 / total


def _x_scalings(sigma: Float[Tensor, "*B"], sigma_data: float) -> Scalings:
    return torch.zeros_like(sigma), torch.full_like(sigma, sigma_data), 1 / (sigma + sigma_data)


@dataclass(frozen=True)
class Parametrisation:
    """How a denoiser is made of a network.

    Attributes:
        scalings: c_skip, c_out and c_in, of sigma and sigma_data.
        target: what F is to answer, of images, noise, sigma and sigma_data: (x0 - c_skip x) / c_out, written out so
            that nothing cancels and nothing is divided by a small c_out.
    """

    scalings: Callable[[Tensor, float], Scalings]
    target: Callable[[Tensor, Tensor, Tensor, float], Tensor]


def _edm_target(images: Tensor, noise: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    _, _, c_in = _edm_scalings(sigma, sigma_data)
    return c_in * (sigma / sigma_data * images - sigma_data * noise)


PARAMETRISATIONS: dict[Objective, Parametrisation] = {
    "edm": Parametrisation(_edm_scalings, _edm_target),
    "flow": Parametrisation(_flow_scalings, lambda images, noise, sigma, sigma_data: images / sigma_data - noise),
    "x": Parametrisation(_x_scalings, lambda images, noise, sigma, sigma_data: images / sigma_data),
}


def scalings(sigma: Float[Tensor, "*B"], sigma_data: float, objective: Objective = "edm") -> Scalings:
    """Return c_skip, c_out and c_in: D(x, sigma) = c_skip x + c_out F(c_in x, sigma).

    Args:
        sigma: noise levels, positive.
        sigma_data: standard deviation of the images' pixels in [-1, 1].
        objective: what the network is asked for.
    """
    return PARAMETRISATIONS[objective].scalings(sigma, sigma_data)


def target(
    images: Float[Tensor, "B C H W"],
    noise: Float[Tensor, "B C H W"],
    sigma: Float[Tensor, "B 1 1 1"],
    sigma_data: float,
    objective: Objective = "edm",
) -> Float[Tensor, "B C H W"]:
    """Return what the network is to answer, in at least the type of sigma.

    Args:
        images: clean images in [-1, 1].
        noise: standard normal numbers.
        sigma: noise levels, positive.
        sigma_data: standard deviation of the images' pixels in [-1, 1].
        objective: what the network is asked for.
    """
    dtype = torch.promote_types(images.dtype, sigma.dtype)
    return PARAMETRISATIONS[objective].target(images.to(dtype), noise.to(dtype), sigma, sigma_data)
