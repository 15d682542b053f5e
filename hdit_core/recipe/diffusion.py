"""`[diffusion]`: the noise levels of training and the loss (HDiT paper, section 4.5 and table 7)."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hdit_core.recipe.base_table import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Problem, Table

DensityType = Literal["cosine-interpolated", "cosine", "lognormal", "loglogistic", "loguniform", "split-lognormal"]
Weighting = Literal["soft-min-snr", "snr", "karras", "min-snr", "sigmoid", "velocity"]
Objective = Literal["edm", "flow", "x"]
Start = Literal["noise", "image"]


class DensityRecipe(Table):
    """The density of noise levels in training. Keys that a type does not use are refused, not ignored."""

    type: DensityType = Field(
        "cosine-interpolated",
        description="family of the density: cosine-interpolated (HDiT), cosine (v-diffusion), lognormal (EDM), "
        "loglogistic, loguniform or split-lognormal",
    )
    sigma_min: PositiveFloat | None = Field(None, description="smallest noise level. Default: 1e-3")
    sigma_max: PositiveFloat | None = Field(None, description="largest noise level. Default: 1e3")
    noise_size_low: PositiveInt | None = Field(
        None, description="cosine-interpolated: low reference size, in pixels. Default: 32"
    )
    noise_size_high: PositiveInt | None = Field(
        None, description="cosine-interpolated: high reference size, in pixels. Default: the longer image side"
    )
    loc: float | None = Field(None, description="mean of ln(sigma). Default: -1.2; loglogistic: ln(sigma_data)")
    scale: PositiveFloat | None = Field(None, description="scale of ln(sigma). Default: 1.2; loglogistic: 0.5")
    scale_low: PositiveFloat | None = Field(
        None, description="split-lognormal: standard deviation of ln(sigma) below loc. Default: 1.2"
    )
    scale_high: PositiveFloat | None = Field(
        None, description="split-lognormal: standard deviation of ln(sigma) above loc. Default: 1.2"
    )

    def constraint_violations(self) -> Iterator[Problem]:
        """Yield the violated constraints between keys."""
        used = KEYS_OF_DENSITY[self.type]
        for key in type(self).model_fields:
            if key != "type" and getattr(self, key) is not None and key not in used:
                yield key, f"has no effect with type = '{self.type}', which takes {', '.join(used)}"
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
    """Noise levels, prediction target and loss weights."""

    sigma_data: PositiveFloat = Field(
        0.5, description="standard deviation of the pixels of the training images, in [-1, 1]"
    )
    objective: Objective = Field(
        "edm",
        description="prediction target: edm (F-prediction), flow (velocity) or x (x0, for patches of 16x16 and more)",
    )
    start: Start = Field(
        "noise",
        description="what sampling starts from: noise, or the condition image, which takes the place of the noise in "
        "training too (with objective = 'flow' and sigma_data = 1 the rectified flow of PMRF). The network sees it "
        "only with model.condition_channels",
    )
    start_noise: NonNegativeFloat = Field(
        0.0, description="start = 'image': standard deviation of the noise added to the condition image"
    )
    weighting: Weighting = Field("soft-min-snr", description="loss weight of each noise level")
    min_snr_gamma: PositiveFloat = Field(5.0, description="min-snr: upper bound of the weight 1/sigma^2")
    sigmoid_bias: float | None = Field(
        None,
        description="sigmoid: the weight of x0 is 1 / (sigma^2 + exp(-bias)); ln(4) is soft-min-snr; use less for "
        "larger images. Required by sigmoid, refused by others",
    )
    loss_scales: NonNegativeInt = Field(
        1,
        description="relative loss weight of the coarsest scale (finest = 1); 1: all scales weigh the same; "
        "0: no upper bound",
    )
    density: DensityRecipe = DensityRecipe()

    def constraint_violations(self) -> Iterator[Problem]:
        """Yield the violated constraints between keys."""
        bias, wanted = self.sigmoid_bias, self.weighting == "sigmoid"
        if wanted and bias is None:
            yield "sigmoid_bias", "missing; expected a number, for example 1.386 (ln 4, the paper's) or -1 for 256x256"
        if bias is not None and not wanted:
            yield "sigmoid_bias", f"{bias} has no effect with weighting = '{self.weighting}', only with 'sigmoid'"
        if self.start_noise and self.start == "noise":
            yield "start_noise", f"{self.start_noise} has no effect with start = 'noise', only with 'image'"
