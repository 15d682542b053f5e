"""What every sampler is handed: the way down the noise levels, the model to ask on it, and fresh noise for it.

Coefficients are Python floats, hence float64 whatever the type of the images, and cost the device nothing.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from hdit_core.devices import at_least_float32
from hdit_core.errors import NumericalError
from hdit_core.recipe.sample import ChurnRecipe

Denoise = Callable[[Float[Tensor, "B C H W"], Float[Tensor, "B"]], Float[Tensor, "B C H W"]]
"""(x, sigma) -> denoised images."""

NoiseSource = Callable[[float, float], Float[Tensor, "B C H W"]]
"""(sigma, sigma_next) -> standard normal noise for that step, on the device and in the type of the images."""

UNIPC_ORDER, UNIPC_VARIANT = 3, "bh2"


@dataclass(frozen=True)
class SamplerStep:
    """Where a sampler stands: at the start of its step `index`, from 0, with what the model made of x.

    `steps` is the schedule's number of steps; `dpm_fast` takes fewer (of several questions each), `dpm_adaptive` as
    many as it needs, and its `sigma` is that of the image with the longest way to go. Churn raises x and `sigma` first.
    """

    index: int
    steps: int
    sigma: float
    x: Float[Tensor, "B C H W"]
    denoised: Float[Tensor, "B C H W"]


@dataclass
class SamplerState:
    """One walk of a batch from much noise to none."""

    name: str
    denoise: Denoise
    sigmas: list[float]
    noise: NoiseSource
    eta: float = 1.0
    solver: str = "midpoint"
    churn: ChurnRecipe | None = None
    unipc_order: int = UNIPC_ORDER
    unipc_variant: str = UNIPC_VARIANT
    on_step: Callable[[SamplerStep], None] | None = None
    index: int = field(default=0, init=False)

    def pairs(self) -> Iterator[tuple[float, float]]:
        """Yield the noise levels at which each step starts and ends, and keep count of the steps."""
        for index, pair in enumerate(pairwise(self.sigmas)):
            self.index = index
            yield pair

    def denoise_at_step_start(
        self, x: Float[Tensor, "B C H W"], sigma: float | Float[Tensor, "B"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the denoised images at the start of a step, and tell `on_step` of it."""
        denoised = self.denoise_at(x, sigma)
        if self.on_step is not None:
            highest = torch.as_tensor(sigma, dtype=torch.float64).max().item()
            self.on_step(SamplerStep(self.index, len(self.sigmas) - 1, highest, x, denoised))
        return denoised

    def denoise_at(self, x: Float[Tensor, "B C H W"], sigma: float | Float[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
        """Ask the model, at one noise level or at each image's own.

        Raises:
            NumericalError: an answer is not finite.
        """
        return call_denoiser(self.denoise, x, sigma, f"{self.name}, step {self.index + 1}")

    def add_noise(
        self, x: Float[Tensor, "B C H W"], amount: float, sigma: float, sigma_next: float
    ) -> Float[Tensor, "B C H W"]:
        """Return x plus `amount` times the noise of the step from sigma to sigma_next."""
        return x + amount * self.noise(sigma, sigma_next) if amount else x


def call_denoiser(
    denoise: Denoise, x: Float[Tensor, "B C H W"], sigma: float | Float[Tensor, "B"], where: str
) -> Float[Tensor, "B C H W"]:
    """Return the model's answer, at one noise level or at each image's own.

    Args:
        where: what is being done, for the message.

    Raises:
        NumericalError: the answer is not finite.
    """
    levels = torch.as_tensor(sigma, dtype=at_least_float32(x.dtype), device=x.device).expand(x.shape[0])
    denoised = denoise(x, levels)
    broken = reduce(~denoised.isfinite(), "b c h w -> b", "any").nonzero().flatten().tolist()
    if broken:
        raise NumericalError(
            f"{where}, sigma = {levels[broken[0]]:.6g}: images {', '.join(map(str, broken))} of the batch of "
            f"{x.shape[0]} are not finite once denoised; expected finite numbers: try an earlier checkpoint, "
            "float32, less guidance or a smaller sigma_max"
        )
    return denoised


def mean_of_each(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B"]:
    """Return the mean of each image, with the same bits in any batch and on any number of threads.

    It is taken row by row first: torch shares out a sum among threads where there is but one long one.
    """
    return reduce(reduce(images, "b c h w -> b c h", "mean"), "b c h -> b", "mean")


def euler_step(
    x: Float[Tensor, "B C H W"], denoised: Float[Tensor, "B C H W"], sigma: float, sigma_next: float
) -> Float[Tensor, "B C H W"]:
    """Return x carried from sigma to sigma_next on the straight line to `denoise_at` (Euler); exactly that at 0."""
    ratio = sigma_next / sigma
    return ratio * x + (1 - ratio) * denoised


def ancestral_step(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Return down and up: an ancestral step walks to noise level `down`, then adds noise of level `up`.

    down^2 + up^2 = sigma_next^2; eta = 1 gives the posterior's own share of fresh noise (DDPM), 0 none.
    """
    up = min(sigma_next, eta * sigma_next * math.sqrt(sigma**2 - sigma_next**2) / sigma)
    return math.sqrt(sigma_next**2 - up**2), up
