"""`[diffusion]`: how images are noised in training, and what the loss counts (HDiT paper, section 4.5 and table 7)."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hdit_core.recipe.table import NonNegativeInt, PositiveFloat, PositiveInt, Problem, Table

DensityType = Literal["cosine-interpolated", "cosine", "lognormal", "loglogistic", "loguniform", "split-lognormal"]
Weighting = Literal["soft-min-snr", "snr", "karras", "min-snr", "sigmoid", "velocity"]
Objective = Literal["edm", "flow", "x"]


class DensityRecipe(Table):
    """How often each noise level is trained. Keys that a type does not use are refused, not ignored."""

    type: DensityType = "cosine-interpolated"
    sigma_min: PositiveFloat | None = Field(None, description="smallest noise level that is trained; default 1e-3")
    sigma_max: PositiveFloat | None = Field(None, description="largest noise level that is trained; default 1e3")
    noise_size_low: PositiveInt | None = Field(None, description="cosine-interpolated: low reference size; default 32")
    noise_size_high: PositiveInt | None = Field(
        None, description="cosine-interpolated: high reference size; default the longer image side"
    )
    loc: float | None = Field(None, description="mean of ln sigma; default -1.2, loglogistic ln(sigma_data)")
    scale: PositiveFloat | None = Field(None, description="spread of ln sigma; default 1.2, loglogistic 0.5")
    scale_low: PositiveFloat | None = Field(None, description="split-lognormal: spread below loc; default 1.2")
    scale_high: PositiveFloat | None = Field(None, description="split-lognormal: spread above loc; default 1.2")

    def constraint_violations(self) -> Iterator[Problem]:
        used = KEYS_OF_DENSITY[self.type]
        for key in type(self).model_fields:
            if key != "type" and getattr(self, key) is not None and key not in used:
                yield key, f"means nothing to type = '{self.type}', which takes {', '.join(used)}"
        if self.sigma_min is not None and self.sigma_max is not None and self.sigma_min >= self.sigma_max:
            yield "sigma_min", f"{self.sigma_min} is not below sigma_max = {self.sigma_max}"


KEYS_OF_DENSITY: dict[str, tuple[str, ...]] = {
    "cosine-interpolated": ("sigma_min", "sigma_max", "noise_size_low", "noise_size_high"),
    "cosine": ("sigma_min", "sigma_max"),
    "lognormal": ("loc", "scale"),
    "loglogistic": ("loc", "scale", "sigma_min", "sigma_max"),
    "loguniform": ("sigma_min", "sigma_max"),
    "split-lognormal": ("loc", "scale_low", "scale_high"),
}


class DiffusionRecipe(Table):
    """The noise process of training."""

    sigma_data: PositiveFloat = Field(0.5, description="standard deviation of the images' pixels in [-1, 1]")
    objective: Objective = Field(
        "edm", description="what the network is asked for; x, the image itself, is for patches of 16x16 and more"
    )
    weighting: Weighting = Field("soft-min-snr", description="how much each noise level counts in the loss")
    min_snr_gamma: PositiveFloat = Field(5.0, description="min-snr: the cap on 1/sigma^2")
    sigmoid_bias: float | None = Field(
        None,
        description="sigmoid: images count 1 / (sigma^2 + exp(-bias)); ln 4: soft-min-snr; less for larger images",
    )
    loss_scales: NonNegativeInt = Field(
        1, description="how much the coarsest structure counts in the loss, the finest 1; 1: all alike; 0: no bound"
    )
    density: DensityRecipe = DensityRecipe()

    def constraint_violations(self) -> Iterator[Problem]:
        bias, wanted = self.sigmoid_bias, self.weighting == "sigmoid"
        if wanted and bias is None:
            yield "sigmoid_bias", "missing; expected a number, for example 1.386 (ln 4, the paper's) or -1 for 256x256"
        if bias is not None and not wanted:
            yield "sigmoid_bias", f"{bias} means nothing to weighting = '{self.weighting}', only to 'sigmoid'"
