"""`[sample]`: how images are drawn. The defaults are the paper's: 50 steps of DPM++(3M) SDE on Karras' schedule."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from hdit_core.recipe.table import NonNegativeFloat, PositiveFloat, PositiveInt, Problem, Table

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
]
Schedule = Literal["karras", "exponential", "polyexponential", "vp"]


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
    guidance: NonNegativeFloat = Field(1.0, description="classifier-free guidance weight; 1: none")
    guidance_batched: bool = Field(
        True, description="guidance asks with and without class at once; false: in turn, in half of the memory"
    )
    batch_size: Annotated[int, Field(gt=0)] = Field(16, description="images at once on one device")

    def problems(self) -> Iterator[Problem]:
        if self.sigma_min >= self.sigma_max:
            yield "sigma_min", f"{self.sigma_min} is not below sigma_max = {self.sigma_max}"
