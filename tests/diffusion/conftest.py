"""Distributions whose perfect denoiser, and whose density at every noise level, are known in closed form."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from hdit_core.diffusion.runge_kutta import integrate


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians of one standard deviation in every direction; means are [K, C x H x W]."""

    means: Tensor
    weights: Tensor
    std: float

    def _log_parts(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        variance = (self.std**2 + sigma.double() ** 2)[:, None]
        away = x.double().flatten(1)[:, None] - self.means
        normal = -(away**2).sum(-1) / (2 * variance) - x[0].numel() / 2 * (2 * math.pi * variance).log()
        return self.weights.log() + normal, away, variance

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        log_parts, away, variance = self._log_parts(x, sigma)
        centres = self.means + (self.std**2 / variance)[..., None] * away
        return (log_parts.softmax(1)[..., None] * centres).sum(1).view_as(x).to(x.dtype)

    def log_density(self, x: Tensor, sigma: float) -> Tensor:
        """ln p of x, being an image with noise of level sigma."""
        return self._log_parts(x, torch.full((len(x),), sigma))[0].logsumexp(1)


@pytest.fixture(scope="session")
def recorded_mixture(reference) -> Mixture:
    """The mixture on which the reference's samplers were recorded, of 4 x 1 x 1 images."""
    numbers = reference("diffusion")
    return Mixture(numbers["mixture.means"], numbers["mixture.weights"], numbers["mixture.std"].item())


@pytest.fixture(scope="session")
def mixture() -> Mixture:
    """Three bumps among 1 x 2 x 3 images."""
    means = torch.tensor([[0.8, -0.4, 0.1, 0.5, -0.9, 0.2], [-0.7, 0.6, 0.3, -0.2, 0.4, -0.8], [0.1] * 6]).double()
    return Mixture(means, torch.tensor([0.5, 0.3, 0.2]).double(), 0.35)


@pytest.fixture(scope="session")
def noisy() -> Tensor:
    """Three 1 x 2 x 3 images of pure noise of level 40."""
    return 40 * torch.randn(3, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def even():
    """Return a function that makes a schedule of n steps, even in ln sigma, from 40 to 0.01 (and not to 0)."""
    return lambda n: torch.linspace(math.log(40), math.log(0.01), n + 1, dtype=torch.float64).exp()


@pytest.fixture(scope="session")
def solution(mixture, noisy) -> Tensor:
    """What `noisy` becomes on the probability-flow ODE at noise level 0.01, to about ten digits."""

    def slope(t, state):
        x = state.view_as(noisy)
        return -(x - mixture.denoise(x, (-t).exp())).flatten(1)

    ends = {"start": -math.log(40), "end": -math.log(0.01)}
    solved = integrate(
        slope, noisy.flatten(1), **ends, rtol=1e-10, atol=1e-10, norm=lambda errors: errors.abs().amax(1)
    )
    return solved.view_as(noisy)
