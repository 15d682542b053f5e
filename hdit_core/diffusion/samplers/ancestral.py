"""Stochastic single-step samplers: each step goes below its end and returns by adding fresh noise (DDPM's posterior).

`ancestral_step` sets how far below: eta = 1 adds as much noise as DDPM, eta = 0 gives the deterministic sampler.
"""

import math

from jaxtyping import Float
from torch import Tensor

from hdit_core.diffusion.samplers.sampler_state import SamplerState, ancestral_step, euler_step
from hdit_core.diffusion.samplers.single_step import middle_step


def euler_ancestral(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """First order: one evaluation per step."""
    for sigma, sigma_next in state.pairs():
        down, up = ancestral_step(sigma, sigma_next, state.settings.eta)
        x = euler_step(x, state.denoise_at_step_start(x, sigma), sigma, down)
        x = state.add_noise(x, up, sigma, sigma_next)
    return x


def dpm_2_ancestral(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """DPM-Solver-2 steps, then noise; second order without noise; two evaluations per step, one in the last."""
    for sigma, sigma_next in state.pairs():
        down, up = ancestral_step(sigma, sigma_next, state.settings.eta)
        x = middle_step(state, x, state.denoise_at_step_start(x, sigma), sigma, down)
        x = state.add_noise(x, up, sigma, sigma_next)
    return x


def dpmpp_2s_ancestral(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """DPM-Solver++(2S): uses the denoised image at the midpoint of ln sigma; two evaluations per step."""
    for sigma, sigma_next in state.pairs():
        denoised = state.denoise_at_step_start(x, sigma)
        down, up = ancestral_step(sigma, sigma_next, state.settings.eta)
        if down > 0:
            middle = math.sqrt(sigma * down)
            denoised = state.denoise_at(euler_step(x, denoised, sigma, middle), middle)
        x = euler_step(x, denoised, sigma, down)
        x = state.add_noise(x, up, sigma, sigma_next)
    return x


def dpmpp_sde(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """DPM-Solver++ SDE: like 2S, with noise added at the midpoint too; two evaluations per step."""
    for sigma, sigma_next in state.pairs():
        denoised = state.denoise_at_step_start(x, sigma)
        if sigma_next > 0:
            middle = math.sqrt(sigma * sigma_next)
            down, up = ancestral_step(sigma, middle, state.settings.eta)
            halfway = state.add_noise(euler_step(x, denoised, sigma, down), up, sigma, middle)
            denoised = state.denoise_at(halfway, middle)
        down, up = ancestral_step(sigma, sigma_next, state.settings.eta)
        x = euler_step(x, denoised, sigma, down)
        x = state.add_noise(x, up, sigma, sigma_next)
    return x
