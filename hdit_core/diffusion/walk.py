"""What every sampler is handed: the way down the noise levels, the model to ask on it, and fresh noise for it.

Coefficients are Python floats, hence float64 whatever the type of the images, and cost the device nothing.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from einops import reduce
from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.diffusion.precondition import at_least_float32
from hdit_core.errors import NumericalError

Denoise = Callable[[Float[Tensor, "B C H W"], Float[Tensor, "B"]], Float[Tensor, "B C H W"]]
"""(x, sigma) -> denoised images."""

NoiseSource = Callable[[Float64[Tensor, "B"], Float64[Tensor, "B"]], Float[Tensor, "B C H W"]]
"""(sigma, sigma_next), each image's own, float64 on the CPU -> standard normal noise for that step."""


@dataclass(frozen=True)
class Step:
    """Where a sampler stands: the `index`-th of `steps`, at noise level `sigma`, with what the model made of x."""

    index: int
    steps: int
    sigma: float
    x: Float[Tensor, "B C H W"]
    denoised: Float[Tensor, "B C H W"]


@dataclass
class Walk:
    """One walk of a batch from much noise to none."""

    name: str
    denoise: Denoise
    sigmas: list[float]
    noise: NoiseSource
    eta: float = 1.0
    solver: str = "midpoint"
    on_step: Callable[[Step], None] | None = None
    index: int = field(default=0, init=False)

    @property
    def steps(self) -> int:
        """How many steps there are, T."""
        return len(self.sigmas) - 1

    def pairs(self) -> Iterator[tuple[float, float]]:
        """Yield the noise levels at which each step starts and ends, and keep count for messages."""
        for index, pair in enumerate(pairwise(self.sigmas)):
            self.index = index
            yield pair

    def start(self, x: Float[Tensor, "B C H W"], sigma: float) -> Float[Tensor, "B C H W"]:
        """Return the denoised images at the start of a step, and tell `on_step` of it."""
        denoised = self.denoised(x, sigma)
        self.tell(x, sigma, denoised)
        return denoised

    def tell(self, x: Float[Tensor, "B C H W"], sigma: float, denoised: Float[Tensor, "B C H W"]) -> None:
        """Call `on_step`, where there is one."""
        if self.on_step is not None:
            self.on_step(Step(self.index, self.steps, sigma, x, denoised))

    def denoised(self, x: Float[Tensor, "B C H W"], sigma: float | Float64[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
        """Ask the model, at one noise level or at each image's own.

        Raises:
            NumericalError: an answer is not finite.
        """
        levels = torch.as_tensor(sigma, dtype=at_least_float32(x.dtype), device=x.device).expand(x.shape[0])
        denoised = self.denoise(x, levels)
        self._check(denoised, levels)
        return denoised

    def _check(self, denoised: Float[Tensor, "B C H W"], levels: Float[Tensor, "B"]) -> None:
        broken = reduce(~denoised.isfinite(), "b c h w -> b", "any")
        if not broken.any():
            return
        rows = broken.nonzero().flatten().tolist()
        raise NumericalError(
            f"{self.name}: step {self.index + 1} of {self.steps}, sigma = {levels[rows[0]]:.6g}: the denoised images "
            f"{', '.join(map(str, rows))} of this batch are not finite; try another checkpoint, float32, "
            "a smaller sample.sigma_max or less sample.guidance"
        )

    def add_noise(
        self, x: Float[Tensor, "B C H W"], amount: float, sigma: float, sigma_next: float
    ) -> Float[Tensor, "B C H W"]:
        """Return x plus `amount` times the noise of the step from sigma to sigma_next."""
        if amount == 0:
            return x
        start, end = (torch.full(x.shape[:1], level, dtype=torch.float64) for level in (sigma, sigma_next))
        return x + amount * self.noise(start, end)


def toward(
    x: Float[Tensor, "B C H W"], denoised: Float[Tensor, "B C H W"], sigma: float, sigma_next: float
) -> Float[Tensor, "B C H W"]:
    """Return x carried from sigma to sigma_next on the straight line to `denoised` (Euler); exactly that at 0."""
    ratio = sigma_next / sigma
    return ratio * x + (1 - ratio) * denoised


def split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Return down and up: an ancestral step walks to noise level `down`, then adds noise of level `up`.

    down^2 + up^2 = sigma_next^2; eta = 1 gives the posterior's own share of fresh noise (DDPM), 0 none.
    """
    up = min(sigma_next, eta * sigma_next * math.sqrt(sigma**2 - sigma_next**2) / sigma)
    return math.sqrt(sigma_next**2 - up**2), up
