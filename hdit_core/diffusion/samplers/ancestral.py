"""Stochastic one-step samplers: each step walks below its end and climbs back with fresh noise (DDPM's posterior).

How far below is `split`'s to say: eta = 1 is DDPM's share of fresh noise, eta = 0 the deterministic sampler.
"""

import math

from jaxtyping import Float
from torch import Tensor

from hdit_core.diffusion.samplers.sampler_state import Walk, split, toward
from hdit_core.diffusion.samplers.single_step import middle_step


def euler_ancestral(walk: Walk, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """First order: one question a step."""
    for sigma, sigma_next in walk.pairs():
        down, up = split(sigma, sigma_next, walk.eta)
        x = toward(x, walk.start(x, sigma), sigma, down)
        x = walk.add_noise(x, up, sigma, sigma_next)
    return x


def dpm_2_ancestral(walk: Walk, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Second order where nothing is random: DPM-Solver-2 down, then noise; two questions a step, one for the last."""
    for sigma, sigma_next in walk.pairs():
        down, up = split(sigma, sigma_next, walk.eta)
        x = middle_step(walk, x, walk.start(x, sigma), sigma, down)
        x = walk.add_noise(x, up, sigma, sigma_next)
    return x


def dpmpp_2s_ancestral(walk: Walk, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """DPM-Solver++(2S): the denoised image of the middle of ln sigma stands for the step; two questions a step."""
    for sigma, sigma_next in walk.pairs():
        denoised = walk.start(x, sigma)
        down, up = split(sigma, sigma_next, walk.eta)
        if down > 0:
            middle = math.sqrt(sigma * down)
            denoised = walk.denoised(toward(x, denoised, sigma, middle), middle)
        x = toward(x, denoised, sigma, down)
        x = walk.add_noise(x, up, sigma, sigma_next)
    return x


def dpmpp_sde(walk: Walk, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """DPM-Solver++ SDE: as 2S, but the middle is reached with its own share of the noise; two questions a step."""
    for sigma, sigma_next in walk.pairs():
        denoised = walk.start(x, sigma)
        if sigma_next > 0:
            middle = math.sqrt(sigma * sigma_next)
            down, up = split(sigma, middle, walk.eta)
            halfway = walk.add_noise(toward(x, denoised, sigma, down), up, sigma, middle)
            denoised = walk.denoised(halfway, middle)
        down, up = split(sigma, sigma_next, walk.eta)
        x = toward(x, denoised, sigma, down)
        x = walk.add_noise(x, up, sigma, sigma_next)
    return x
