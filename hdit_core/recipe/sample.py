"""`[sample]`: how images are drawn. The defaults are the paper's: 50 steps of DPM++(3M) SDE on Karras' schedule."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from hdit_core.recipe.table import Listed, NonNegativeFloat, PositiveFloat, PositiveInt, Probability, Problem, Table

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
CHURNED: tuple[Sampler, ...] = ("euler", "heun", "dpm_2")
Schedule = Literal["karras", "exponential", "polyexponential", "vp"]


class ChurnRecipe(Table):
    """Fresh noise before each step of a sampler that has none of its own (EDM, algorithm 2)."""

    amount: NonNegativeFloat = Field(0.0, description="S_churn: noise added in all steps together; 0: none")
    sigma_min: NonNegativeFloat = Field(0.0, description="S_tmin: lowest noise level at which some is added")
    sigma_max: PositiveFloat | None = Field(None, description="S_tmax: highest one; left out: no limit")
    noise: PositiveFloat = Field(1.0, description="S_noise: its standard deviation; somewhat above 1 keeps detail")

    def constraint_violations(self) -> Iterator[Problem]:
        if self.sigma_max is not None and self.sigma_min >= self.sigma_max:
            yield "sigma_min", f"{self.sigma_min} is not below sigma_max = {self.sigma_max}"


class SampleRecipe(Table):
    """How `hdit sample`, and the grids of a run, draw images."""

    sampler: Sampler = "dpmpp_3m_sde"
    steps: PositiveInt = 50
    schedule: Schedule = "karras"
    rho: PositiveFloat | None = Field(
        None, description="exponent of karras (default 7) and polyexponential (default 1)"
    )
    sigma_min: PositiveFloat = 1e-2
    sigma_max: PositiveFloat = 160.0
    eta: NonNegativeFloat = Field(1.0, description="share of fresh noise in stochastic samplers; 0: none")
    solver: Literal["heun", "midpoint"] = Field("midpoint", description="dpmpp_2m_sde: its second-order term")
    churn: ChurnRecipe | None = Field(None, description="noise added at each step of euler, heun or dpm_2")
    unipc_order: Literal[2, 3] | None = Field(None, description="unipc: order of its predictor (default 3)")
    unipc_variant: Literal["bh1", "bh2"] | None = Field(None, description="unipc: its B(h) (default bh2)")
    guidance: NonNegativeFloat = Field(1.0, description="classifier-free guidance weight; 1: none")
    guidance_interval: Annotated[tuple[NonNegativeFloat, PositiveFloat], Listed] | None = Field(
        None, description="guide only where [low, high] has low < sigma <= high; the rest costs one pass (default all)"
    )
    guidance_rescale: Probability = Field(
        0.0, description="share to which guided images get back the contrast of unguided ones; 0: none"
    )
    guidance_batched: bool = Field(
        True, description="guidance asks with and without class at once; false: in turn, in half of the memory"
    )
    batch_size: Annotated[int, Field(gt=0)] = Field(16, description="images at once on one device")

    def constraint_violations(self) -> Iterator[Problem]:
        if self.sigma_min >= self.sigma_max:
            yield "sigma_min", f"{self.sigma_min} is not below sigma_max = {self.sigma_max}"
        if self.churn is not None and self.churn.amount and self.sampler not in CHURNED:
            yield "churn.amount", f"{self.churn.amount} means nothing to '{self.sampler}', only to {', '.join(CHURNED)}"
        if self.guidance_interval is not None and self.guidance_interval[0] >= self.guidance_interval[1]:
            low, high = self.guidance_interval
            yield "guidance_interval", f"it ends at {high}, which is not above its start at {low}"
