"""The state of a sampler run: noise levels, denoising function, noise source, and the current step.

Coefficients are Python floats, hence float64 for any dtype of the images, and need no work on the device.
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
from hdit_core.recipe.sample import SampleRecipe

Denoise = Callable[[Float[Tensor, "B C H W"], Float[Tensor, "B"]], Float[Tensor, "B C H W"]]
"""(x, sigma) -> denoised images."""

NoiseSource = Callable[[float, float], Float[Tensor, "B C H W"]]
"""(sigma, sigma_next) -> standard normal noise for that step, on the device and in the dtype of the images."""


@dataclass(frozen=True)
class SamplerStep:
    """The start of step `index`, counted from 0: noisy images x, and their denoised images.

    `steps` is the schedule's number of steps; `dpm_fast` takes fewer (with several evaluations each), `dpm_adaptive` as
    many as it needs, and its `sigma` is the highest of the batch. With churn, x and `sigma` are those after it.
    """

    index: int
    steps: int
    sigma: float
    x: Float[Tensor, "B C H W"]
    denoised: Float[Tensor, "B C H W"]


@dataclass
class SamplerState:
    """A run of a sampler over one batch."""

    settings: SampleRecipe
    denoise: Denoise
    sigmas: list[float]
    noise: NoiseSource
    on_step: Callable[[SamplerStep], None] | None = None
    index: int = field(default=0, init=False)

    def pairs(self) -> Iterator[tuple[float, float]]:
        """Yield the noise levels at which each step starts and ends, and count the steps."""
        for index, pair in enumerate(pairwise(self.sigmas)):
            self.index = index
            yield pair

    def denoise_at_step_start(
        self, x: Float[Tensor, "B C H W"], sigma: float | Float[Tensor, "B"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the denoised images at the start of a step, and call `on_step`."""
        denoised = self.denoise_at(x, sigma)
        if self.on_step is not None:
            highest = torch.as_tensor(sigma, dtype=torch.float64).max().item()
            self.on_step(SamplerStep(self.index, len(self.sigmas) - 1, highest, x, denoised))
        return denoised

    def denoise_at(self, x: Float[Tensor, "B C H W"], sigma: float | Float[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
        """Return the denoised images, at one noise level or at each image's own.

        Raises:
            NumericalError: the denoiser returns NaN or infinity.
        """
        return call_denoiser(self.denoise, x, sigma, f"{self.settings.sampler}, step {self.index + 1}")

    def add_noise(
        self, x: Float[Tensor, "B C H W"], amount: float, sigma: float, sigma_next: float
    ) -> Float[Tensor, "B C H W"]:
        """Return x plus `amount` times the noise of the step from sigma to sigma_next."""
        return x + amount * self.noise(sigma, sigma_next) if amount else x


def call_denoiser(
    denoise: Denoise, x: Float[Tensor, "B C H W"], sigma: float | Float[Tensor, "B"], where: str
) -> Float[Tensor, "B C H W"]:
    """Return the denoised images, at one noise level or at each image's own.

    Args:
        where: the operation, for the error message.

    Raises:
        NumericalError: the denoiser returns NaN or infinity.
    """
    levels = _levels(x, sigma)
    denoised = denoise(x, levels)
    finite = reduce(denoised.isfinite(), "b c h w -> b", "all").tolist()  # waits for a GPU, once
    broken = [image for image, is_finite in enumerate(finite) if not is_finite]
    if broken:
        raise NumericalError(
            f"{where}, sigma = {levels[broken[0]]:.6g}: images {', '.join(map(str, broken))} of the batch of "
            f"{x.shape[0]} are NaN or infinite once denoised; try an earlier checkpoint, float32, less guidance or a "
            "smaller sigma_max"
        )
    return denoised


def _levels(x: Float[Tensor, "B C H W"], sigma: float | Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Return the noise level of each image."""
    if isinstance(sigma, Tensor):
        return sigma.to(x.device, at_least_float32(x.dtype)).expand(x.shape[0])
    return torch.full(x.shape[:1], sigma, dtype=at_least_float32(x.dtype), device=x.device)


def mean_of_each(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B"]:
    """Return the mean of each image, bit-identical for any batch size and number of threads.

    Rows are averaged first: torch splits a single long sum among threads.
    """
    return reduce(reduce(images, "b c h w -> b c h", "mean"), "b c h -> b", "mean")


def euler_step(
    x: Float[Tensor, "B C H W"], denoised: Float[Tensor, "B C H W"], sigma: float, sigma_next: float
) -> Float[Tensor, "B C H W"]:
    """Return x after an Euler step from sigma to sigma_next, towards `denoised`; exactly `denoised` at 0."""
    ratio = sigma_next / sigma
    return ratio * x + (1 - ratio) * denoised


def ancestral_step(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Return down and up: an ancestral step goes to noise level `down`, then adds noise of level `up`.

    down^2 + up^2 = sigma_next^2; eta = 1 adds as much fresh noise as the posterior has (DDPM), eta = 0 none.
    """
    up = min(sigma_next, eta * sigma_next * math.sqrt(sigma**2 - sigma_next**2) / sigma)
    return math.sqrt(sigma_next**2 - up**2), up
