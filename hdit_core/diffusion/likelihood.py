"""Log-likelihood of images by the probability-flow ODE, solved from the image to noise (Song 2021, eq. 39).

With time l = ln sigma the ODE is dx/dl = x - D(x, sigma), and ln p decreases along it by dims - tr dD/dx. The trace is
estimated with random probes (Hutchinson) from each image's own stream, or computed exactly for tiny images. The state
that is integrated is x / sqrt(1 + sigma^2) and ln p per dimension, which are of order 1 at every noise level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.devices import require_float64
from hdit_core.diffusion.runge_kutta import Slope, integrate
from hdit_core.diffusion.samplers.sampler_state import Denoise, call_denoiser
from hdit_core.randomness import stream

PURPOSE = "probe"
LEVELS_PER_UNIT = 127.5  # 8-bit images in [-1, 1]


@dataclass(frozen=True)
class LogLikelihood:
    """ln p of images with noise of level sigma_min under the model; `dims` is C x H x W."""

    nats: Float64[Tensor, "B"]
    dims: int

    @property
    def bits_per_dim(self) -> Float64[Tensor, "B"]:
        """-log2 of the density of pixels in [-1, 1], per dimension; may be negative."""
        return -self.nats / (self.dims * math.log(2))

    @property
    def bits_per_dim_u8(self) -> Float64[Tensor, "B"]:
        """Bits per dimension of 8-bit images: the density times the width of a level, 2/255.

        An upper bound in expectation if the images were uniformly dequantized.
        """
        return self.bits_per_dim + math.log2(LEVELS_PER_UNIT)


def rademacher_probes(
    seed: int, indices: Sequence[int], shape: Sequence[int], count: int
) -> Float[Tensor, "P B C H W"]:
    """Return `count` images of random signs for each index, float32 on the CPU, from the image's own streams."""
    signs = [
        [torch.from_numpy(stream(seed, PURPOSE, int(i), part).integers(0, 2, tuple(shape))) for i in indices]
        for part in range(count)
    ]
    return torch.stack([torch.stack(row) for row in signs]).float() * 2 - 1


def _denoised_and_trace(
    denoise: Denoise,
    x: Float[Tensor, "B C H W"],
    sigma: Float64[Tensor, "B"],
    probes: Float[Tensor, "P B C H W"],
) -> tuple[Float[Tensor, "B C H W"], Float64[Tensor, "B"]]:
    """Return D(x, sigma) and the estimated trace of its derivative."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        denoised = call_denoiser(denoise, x, sigma, "log-likelihood")
        trace = torch.zeros_like(sigma)
        for probe in probes:
            (along,) = torch.autograd.grad(denoised, x, probe, retain_graph=True)
            trace = trace + reduce((along * probe).double(), "b c h w -> b", "sum")
    return denoised.detach(), trace / len(probes)


def _spread(t: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return sqrt(1 + sigma^2), the scale of the solver's images."""
    return (1 + (2 * t).exp()).sqrt()


def _norm(errors: Float64[Tensor, "B S"]) -> Float64[Tensor, "B"]:
    """Return the RMS error over pixels, or the error of the log-likelihood per dimension if that is larger."""
    return torch.maximum((errors[:, :-1] ** 2).mean(1).sqrt(), errors[:, -1].abs())


def _slope(denoise: Denoise, images: Float[Tensor, "B C H W"], probes: Float[Tensor, "P B C H W"]) -> Slope:
    """Return the derivative of states (scaled images, nats per dimension) with respect to t = ln sigma."""
    shape, dims, probes = images.shape[1:], images[0].numel(), probes.to(images)

    def slope(t: Float64[Tensor, "B"], state: Float64[Tensor, "B S"]) -> Float64[Tensor, "B S"]:
        sigma, spread, scaled = t.exp(), rearrange(_spread(t), "b -> b 1"), state[:, :-1]
        x = scaled * spread
        denoised, trace = _denoised_and_trace(denoise, x.unflatten(1, shape).to(images.dtype), sigma, probes)
        change = (x - denoised.flatten(1)) / spread - scaled * (1 - 1 / spread**2)
        trace_of_change = rearrange(dims - trace, "b -> b 1") - dims * (1 - 1 / spread**2)
        return torch.cat([change, trace_of_change / dims], dim=1)

    return slope


def log_likelihood(
    denoise: Denoise,
    images: Float[Tensor, "B C H W"],
    probes: Float[Tensor, "P B C H W"],
    *,
    sigma_min: float = 1e-2,
    sigma_max: float = 160.0,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> LogLikelihood:
    """Return ln p of images under a model that starts from N(0, sigma_max^2), as the samplers do.

    Args:
        denoise: (x, sigma [B]) -> denoised images; differentiable with respect to x.
        images: pixels in [-1, 1]; the density is that of images with noise of level sigma_min.
        probes: of the trace, such as `rademacher_probes`.
        sigma_min, sigma_max: the ends of the ODE.
        rtol, atol: of the ODE solver, for scaled pixels and for nats per dimension.

    Raises:
        NumericalError: the denoiser returns NaN or infinity, or the ODE cannot be solved.
        UsageError: the device has no float64.
    """
    require_float64(images.device, "the likelihood")
    ends = torch.tensor([sigma_min, sigma_max], dtype=torch.float64).log()
    start_spread, end_spread = _spread(ends).tolist()
    scaled = images.double().flatten(1) / start_spread
    state = torch.cat([scaled, torch.zeros_like(scaled[:, :1])], dim=1)
    state = integrate(_slope(denoise, images, probes), state, *ends.tolist(), rtol=rtol, atol=atol, norm=_norm)

    noise = state[:, :-1] * end_spread / sigma_max
    per_dim = state[:, -1] + math.log(end_spread / (sigma_max * start_spread)) - math.log(2 * math.pi) / 2
    dims = images[0].numel()
    return LogLikelihood(dims * per_dim - (noise**2).sum(1) / 2, dims)
