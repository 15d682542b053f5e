"""Stochastic one-step samplers: each step walks below its end and climbs back with fresh noise (DDPM's posterior).

How far below is `ancestral_step`'s to say: eta = 1 is DDPM's share of fresh noise, eta = 0 the deterministic sampler.
"""

import math

from jaxtyping import Float
from torch import Tensor

from hdit_core.diffusion.samplers.sampler_state import SamplerState, ancestral_step, euler_step
from hdit_core.diffusion.samplers.single_step import middle_step


def euler_ancestral(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """First order: one question a step."""
    for sigma, sigma_next in state.pairs():
        down, up = ancestral_step(sigma, sigma_next, state.eta)
        x = euler_step(x, state.denoise_at_step_start(x, sigma), sigma, down)
        x = state.add_noise(x, up, sigma, sigma_next)
    return x


def dpm_2_ancestral(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Second order where nothing is random: DPM-Solver-2 down, then noise; two questions a step, one for the last."""
    for sigma, sigma_next in state.pairs():
        down, up = ancestral_step(sigma, sigma_next, state.eta)
        x = middle_step(state, x, state.denoise_at_step_start(x, sigma), sigma, down)
        x = state.add_noise(x, up, sigma, sigma_next)
    return x


def dpmpp_2s_ancestral(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """DPM-Solver++(2S): the denoised image of the middle of ln sigma stands for the step; two questions a step."""
    for sigma, sigma_next in state.pairs():
        denoised = state.denoise_at_step_start(x, sigma)
        down, up = ancestral_step(sigma, sigma_next, state.eta)
        if down > 0:
            middle = math.sqrt(sigma * down)
            denoised = state.denoise_at(euler_step(x, denoised, sigma, middle), middle)
        x = euler_step(x, denoised, sigma, down)
        x = state.add_noise(x, up, sigma, sigma_next)
    return x


def dpmpp_sde(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """DPM-Solver++ SDE: as 2S, but the middle is reached with its own share of the noise; two questions a step."""
    for sigma, sigma_next in state.pairs():
        denoised = state.denoise_at_step_start(x, sigma)
        if sigma_next > 0:
            middle = math.sqrt(sigma * sigma_next)
            down, up = ancestral_step(sigma, middle, state.eta)
            halfway = state.add_noise(euler_step(x, denoised, sigma, down), up, sigma, middle)
            denoised = state.denoise_at(halfway, middle)
        down, up = ancestral_step(sigma, sigma_next, state.eta)
        x = euler_step(x, denoised, sigma, down)
        x = state.add_noise(x, up, sigma, sigma_next)
    return x
