"""All samplers by name, behind one function."""

from collections.abc import Callable
from itertools import pairwise

from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.diffusion.samplers.ancestral import dpm_2_ancestral, dpmpp_2s_ancestral, dpmpp_sde, euler_ancestral
from hdit_core.diffusion.samplers.dpm_adaptive import dpm_adaptive, dpm_fast
from hdit_core.diffusion.samplers.dpmpp_multistep import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m_sde, lms
from hdit_core.diffusion.samplers.sampler_state import (
    UNIPC_ORDER,
    UNIPC_VARIANT,
    Denoise,
    NoiseSource,
    SamplerState,
    SamplerStep,
)
from hdit_core.diffusion.samplers.single_step import dpm_2, euler, heun
from hdit_core.diffusion.samplers.unipc import unipc
from hdit_core.errors import UsageError, did_you_mean
from hdit_core.recipe.sample import ChurnRecipe, SampleRecipe

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


def _check_name(name: str) -> None:
    if name not in SAMPLERS:
        raise UsageError(
            f"sample.sampler = '{name}' is not a sampler{did_you_mean(name, SAMPLERS)}; there are {', '.join(SAMPLERS)}"
        )


def sample(
    name: str,
    denoise: Denoise,
    x: Float[Tensor, "B C H W"],
    sigmas: Float64[Tensor, "levels"],
    noise: NoiseSource,
    *,
    eta: float = 1.0,
    solver: str = "midpoint",
    churn: ChurnRecipe | None = None,
    unipc_order: int = UNIPC_ORDER,
    unipc_variant: str = UNIPC_VARIANT,
    on_step: Callable[[SamplerStep], None] | None = None,
) -> Float[Tensor, "B C H W"]:
    """Return images sampled from noise along the schedule.

    Args:
        name: of the sampler, a key of `SAMPLERS`.
        denoise: (x, sigma [B]) -> denoised images, such as `guided` returns.
        x: initial noise, sigmas[0] times standard normal.
        sigmas: the schedule, decreasing; if its last level is 0, the result is free of noise.
        noise: (sigma, sigma_next) -> standard normal noise for that step, such as a `BrownianNoise`; deterministic
            samplers call it for churn only.
        eta: amount of fresh noise of stochastic samplers, 1 as in DDPM; at 0 they are deterministic.
        solver: `dpmpp_2m_sde`'s second-order term, `heun` or `midpoint`.
        churn: noise that `euler`, `heun` and `dpm_2` add before each step; None: none.
        unipc_order, unipc_variant: of `unipc`: the order of its predictor, 2 or 3, and its B(h), `bh1` or `bh2`.
        on_step: called at the start of each step; must not modify its tensors.

    Raises:
        UsageError: unknown sampler.
        ValueError: the schedule is not decreasing, or ends below 0.
        NumericalError: the denoiser returns NaN or infinity.
    """
    _check_name(name)
    levels = [float(sigma) for sigma in sigmas]
    if len(levels) < 2 or levels[-1] < 0 or any(a <= b for a, b in pairwise(levels)):
        raise ValueError(f"sigmas must be decreasing and end at 0 or above, got {levels}")
    state = SamplerState(name, denoise, levels, noise, eta, solver, churn, unipc_order, unipc_variant, on_step)
    return SAMPLERS[name](state, x)


def sample_by(
    settings: SampleRecipe,
    denoise: Denoise,
    x: Float[Tensor, "B C H W"],
    sigmas: Float64[Tensor, "levels"],
    noise: NoiseSource,
    on_step: Callable[[SamplerStep], None] | None = None,
) -> Float[Tensor, "B C H W"]:
    """Return images sampled with the settings of a recipe; arguments and errors as in `sample`.

    Args:
        settings: the `[sample]` table; its schedule is ignored in favor of `sigmas`.
    """
    return sample(
        settings.sampler,
        denoise,
        x,
        sigmas,
        noise,
        eta=settings.eta,
        solver=settings.solver,
        churn=settings.churn,
        unipc_order=settings.unipc_order or UNIPC_ORDER,
        unipc_variant=settings.unipc_variant or UNIPC_VARIANT,
        on_step=on_step,
    )
