"""All samplers by name, behind one function."""

from collections.abc import Callable
from itertools import pairwise

from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.diffusion.samplers.ancestral import dpm_2_ancestral, dpmpp_2s_ancestral, dpmpp_sde, euler_ancestral
from hdit_core.diffusion.samplers.dpm_adaptive import dpm_adaptive, dpm_fast
from hdit_core.diffusion.samplers.dpmpp_multistep import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m_sde, lms
from hdit_core.diffusion.samplers.sampler_state import Denoise, NoiseSource, SamplerState, SamplerStep
from hdit_core.diffusion.samplers.single_step import dpm_2, euler, heun
from hdit_core.diffusion.samplers.unipc import unipc
from hdit_core.recipe.sample import SampleRecipe

Sampler = Callable[[SamplerState, Float[Tensor, "B C H W"]], Float[Tensor, "B C H W"]]

SAMPLERS: dict[str, Sampler] = {
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpm_2": dpm_2,
    "dpm_2_ancestral": dpm_2_ancestral,
    "lms": lms,
    "dpm_fast": dpm_fast,
    "dpm_adaptive": dpm_adaptive,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "unipc": unipc,
}


def sample_by(
    settings: SampleRecipe,
    denoise: Denoise,
    x: Float[Tensor, "B C H W"],
    sigmas: Float64[Tensor, "levels"],
    noise: NoiseSource,
    on_step: Callable[[SamplerStep], None] | None = None,
) -> Float[Tensor, "B C H W"]:
    """Return images sampled from noise along the schedule, with the sampler of a recipe.

    Args:
        settings: the `[sample]` table; its schedule is ignored in favor of `sigmas`.
        denoise: (x, sigma [B]) -> denoised images, such as `guided` returns.
        x: initial noise, sigmas[0] times standard normal.
        sigmas: the schedule, decreasing; if its last level is 0, the result is free of noise.
        noise: (sigma, sigma_next) -> standard normal noise for that step, such as a `BrownianNoise`; deterministic
            samplers call it for churn only.
        on_step: called at the start of each step; must not modify its tensors.

    Raises:
        ValueError: the schedule is not decreasing, or ends below 0.
        NumericalError: the denoiser returns NaN or infinity.
    """
    levels = [float(sigma) for sigma in sigmas]
    if len(levels) < 2 or levels[-1] < 0 or any(a <= b for a, b in pairwise(levels)):
        raise ValueError(f"sigmas must be decreasing and end at 0 or above, got {levels}")
    return SAMPLERS[settings.sampler](SamplerState(settings, denoise, levels, noise, on_step), x)
