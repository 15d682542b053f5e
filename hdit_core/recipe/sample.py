"""`[sample]`: how images are generated. Defaults as in the paper: 50 steps of DPM++(3M) SDE, Karras schedule."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from hdit_core.recipe.base_table import (
    Listed,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    Problem,
    Table,
)

Sampler = Literal[
    "euler",
    "euler_ancestral",
    "heun",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "unipc",
]
STOCHASTIC: tuple[Sampler, ...] = (
    "euler_ancestral",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
)
"""Samplers that add noise, unless eta is 0."""

CHURNED: tuple[Sampler, ...] = ("euler", "heun", "dpm_2")
Schedule = Literal["karras", "exponential", "polyexponential", "vp", "flow"]


class ChurnRecipe(Table):
    """Noise added before each step of a deterministic sampler (EDM, algorithm 2)."""

    amount: NonNegativeFloat = Field(0.0, description="S_churn: total amount of noise added over all steps; 0: none")
    sigma_min: NonNegativeFloat = Field(0.0, description="S_tmin: lowest noise level at which noise is added")
    sigma_max: PositiveFloat | None = Field(
        None, description="S_tmax: highest noise level at which noise is added. Default: no limit"
    )
    noise: PositiveFloat = Field(
        1.0, description="S_noise: standard deviation of the added noise; slightly above 1 preserves detail"
    )

    def constraint_violations(self) -> Iterator[Problem]:
        """Yield the violated constraints between keys."""
        if self.sigma_max is not None and self.sigma_min >= self.sigma_max:
            yield "sigma_min", f"{self.sigma_min} is not below sigma_max = {self.sigma_max}"


class SampleRecipe(Table):
    """How `hdit sample` and the sample grids of a run generate images."""

    sampler: Sampler = Field("dpmpp_3m_sde", description="sampler; euler is DDIM, heun is EDM's second-order sampler")
    steps: PositiveInt = Field(50, description="number of sampling steps")
    schedule: Schedule = Field("karras", description="spacing of the noise levels")
    rho: PositiveFloat | None = Field(
        None, description="exponent of the karras (default: 7) and polyexponential (default: 1) schedules"
    )
    sigma_min: PositiveFloat = Field(1e-2, description="lowest noise level of the schedule")
    sigma_max: PositiveFloat = Field(160.0, description="highest noise level of the schedule, where sampling starts")
    eta: NonNegativeFloat = Field(1.0, description="amount of noise that stochastic samplers add; 0: deterministic")
    noise_color: NonNegativeFloat = Field(
        0.0,
        description="how much of the noise of stochastic samplers moves to frequencies that are still undecided at its "
        "level; 0: white noise",
    )
    solver: Literal["heun", "midpoint"] = Field("midpoint", description="dpmpp_2m_sde: type of its second-order term")
    churn: ChurnRecipe | None = Field(None, description="noise added before each step of euler, heun or dpm_2")
    unipc_order: Literal[2, 3] | None = Field(None, description="unipc: order of the predictor. Default: 3")
    unipc_variant: Literal["bh1", "bh2"] | None = Field(None, description="unipc: the function B(h). Default: bh2")
    guidance: NonNegativeFloat = Field(1.0, description="classifier-free guidance scale; 1 disables guidance")
    condition_guidance: NonNegativeFloat = Field(
        1.0, description="guidance scale of the condition image; 1 disables it. Needs train.condition_dropout"
    )
    vector_guidance: NonNegativeFloat = Field(
        1.0, description="guidance scale of the conditioning vector; 1 disables it. Needs train.condition_dropout"
    )
    guidance_interval: Annotated[tuple[NonNegativeFloat, PositiveFloat], Listed] | None = Field(
        None,
        description="[low, high]: apply guidance only for low < sigma <= high; others cost half. Default: all",
    )
    guidance_rescale: Probability = Field(
        0.0, description="guidance rescale factor phi (Lin et al. 2023); 0 disables it"
    )
    guidance_batched: bool = Field(
        True,
        description="evaluate conditional and unconditional in one batch; false: sequentially, with half the memory",
    )
    batch_size: Annotated[int, Field(gt=0)] = Field(16, description="batch size per device")

    @property
    def noise_key(self) -> str | None:
        """The key by which sampling adds noise; None if it is deterministic."""
        if self.sampler in STOCHASTIC and self.eta:
            return "eta"
        return "churn.amount" if self.churn is not None and self.churn.amount else None

    def constraint_violations(self) -> Iterator[Problem]:
        """Yield the violated constraints between keys."""
        if self.sigma_min >= self.sigma_max:
            yield "sigma_min", f"{self.sigma_min} is not below sigma_max = {self.sigma_max}"
        if self.churn is not None and self.churn.amount and self.sampler not in CHURNED:
            yield (
                "churn.amount",
                f"{self.churn.amount} has no effect with '{self.sampler}', only with {', '.join(CHURNED)}",
            )
        if self.guidance_interval is not None and self.guidance_interval[0] >= self.guidance_interval[1]:
            low, high = self.guidance_interval
            yield "guidance_interval", f"it ends at {high}, which is not above its start at {low}"
