"""The JSON configuration of k-diffusion's `image_transformer_v2`: allowed values and defaults.

Unknown keys are ignored: they do not change the network.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from hdit_core.errors import CheckpointError
from hdit_core.recipe.base_table import NonNegativeFloat, PositiveFloat, Probability

MAX_LAYERS = 1000
MAX_LEVELS = 32
MAX_COUNT = 2**20

Count = Annotated[int, Field(gt=0, le=MAX_COUNT)]
CountOrNone = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Small = Annotated[int, Field(gt=0, le=1024)]


class Section(BaseModel):
    """A table of the config; known keys are checked strictly, others are ignored."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class GlobalAttention(Section):
    """An entry of `model.self_attns` of type "global"."""

    type: Literal["global"] = "global"
    d_head: Count = 64


class NeighborhoodAttention(Section):
    """An entry of `model.self_attns` of type "neighborhood"."""

    type: Literal["neighborhood"] = "neighborhood"
    d_head: Count = 64
    kernel_size: Count = 7


class ShiftedWindowAttention(Section):
    """An entry of `model.self_attns` of type "shifted-window"."""

    type: Literal["shifted-window"]
    d_head: Count = 64
    window_size: Count


class NoAttention(Section):
    """An entry of `model.self_attns` of type "none"."""

    type: Literal["none"]


Attention = Annotated[
    GlobalAttention | NeighborhoodAttention | ShiftedWindowAttention | NoAttention, Field(discriminator="type")
]


SYNONYMS = {"mean": "loc", "std": "scale", "std_1": "scale_1", "std_2": "scale_2"}


class Density(Section):
    """`model.sigma_sample_density`; keys that its type does not use are allowed."""

    type: Literal["cosine-interpolated", "cosine", "lognormal", "loglogistic", "loguniform", "split-lognormal"]
    min_value: PositiveFloat | None = None
    max_value: PositiveFloat | None = None
    noise_d_low: Count | None = None
    noise_d_high: Count | None = None
    loc: float | None = None
    scale: PositiveFloat | None = None
    scale_1: PositiveFloat | None = None
    scale_2: PositiveFloat | None = None

    @model_validator(mode="before")
    @classmethod
    def _resolve_synonyms(cls, density: Any) -> Any:
        if not isinstance(density, dict):
            return density
        density = {SYNONYMS.get(key, key): value for key, value in density.items()}
        return density | {"type": "cosine"} if density.get("type") == "v-diffusion" else density


def density_defaults(model: "Model") -> dict[str, Any]:
    """Return the reference's defaults for missing keys of `model.sigma_sample_density`."""
    longer = max(model.input_size)
    defaults: dict[str, dict[str, Any]] = {
        "cosine-interpolated": {
            "min_value": min(model.sigma_min, 1e-3),
            "max_value": max(model.sigma_max, 1e3),
            "noise_d_low": 32,
            "noise_d_high": longer,
        },
        "cosine": {"min_value": 1e-3, "max_value": 1e3},
        "loglogistic": {"loc": math.log(model.sigma_data), "scale": 0.5},
        "loguniform": {"min_value": model.sigma_min, "max_value": model.sigma_max},
    }
    return defaults.get(model.sigma_sample_density.type, {})


REQUIRED_OF_DENSITY = {"lognormal": ("loc", "scale"), "split-lognormal": ("loc", "scale_1", "scale_2")}


def _as_list(value: Any) -> Any:
    """Turn a single number into a list; the reference accepts a float, but fails on an integer."""
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


Rates = Annotated[list[Probability], BeforeValidator(_as_list)]


class Model(Section):
    """`model`: the network, its preconditioning, loss, and noise distribution."""

    type: Literal["image_transformer_v2"]
    input_channels: Small
    input_size: Annotated[list[Count], Field(min_length=2, max_length=2)]
    patch_size: Annotated[list[Small], Field(min_length=2, max_length=2)]
    widths: Annotated[list[Count], Field(min_length=1, max_length=MAX_LEVELS)]
    depths: list[Count]
    d_ffs: list[Count | None] | None = None
    self_attns: list[Attention] | None = None
    dropout_rate: Rates | None = None
    mapping_width: Count = 256
    mapping_depth: Annotated[int, Field(gt=0, le=MAX_LAYERS)] = 2
    mapping_d_ff: Count | None = None
    mapping_dropout_rate: Probability = 0.0
    mapping_cond_dim: CountOrNone = 0
    augment_prob: Probability = 0.0
    augment_wrapper: Literal[False] = False
    has_variance: Literal[False] = False
    loss_config: Literal["karras"] = "karras"
    loss_weighting: Literal["karras", "snr", "soft-min-snr"] = "karras"
    loss_scales: CountOrNone = 1
    sigma_data: PositiveFloat = 1.0
    sigma_min: PositiveFloat
    sigma_max: PositiveFloat
    sigma_sample_density: Density

    @model_validator(mode="after")
    def _fill_levels(self) -> "Model":
        levels = len(self.widths)
        local: list[Attention] = [NeighborhoodAttention() for _ in range(levels - 1)]
        self.self_attns = self.self_attns or [*local, GlobalAttention()]
        self.d_ffs = [d_ff or 3 * width for d_ff, width in zip(self.d_ffs or [None] * levels, self.widths, strict=True)]
        self.mapping_d_ff = self.mapping_d_ff or 3 * self.mapping_width
        rates = self.dropout_rate or [0.0]
        self.dropout_rate = rates * levels if len(rates) == 1 else rates
        if sum(self.depths) > MAX_LAYERS:
            raise ValueError(f"depths have the sum {sum(self.depths)}; expected at most {MAX_LAYERS}")
        return self

    @model_validator(mode="after")
    def _fill_density(self) -> "Model":
        density = self.sigma_sample_density
        for key, value in density_defaults(self).items():
            if getattr(density, key) is None:
                setattr(density, key, value)
        for key in REQUIRED_OF_DENSITY.get(density.type, ()):
            if getattr(density, key) is None:
                raise ValueError(f"sigma_sample_density of type {density.type} has no {key}, which it requires")
        return self

    @model_validator(mode="before")
    @classmethod
    def _check_lengths(cls, model: Any) -> Any:
        widths = model.get("widths") if isinstance(model, Mapping) else None
        if isinstance(widths, list) and widths:
            for key in ("depths", "d_ffs", "self_attns", "dropout_rate"):
                entries = model.get(key)
                if isinstance(entries, list) and entries and len(entries) != len(widths):
                    raise ValueError(f"{key} has {len(entries)} entries, widths has {len(widths)}")
        return model


class Dataset(Section):
    """`dataset`: the training data."""

    type: str = "imagefolder"
    location: str = "data"
    num_classes: CountOrNone = 0
    cond_dropout_rate: Probability = 0.1


class Optimizer(Section):
    """`optimizer`: its type and hyperparameters."""

    type: str = "adamw"
    lr: PositiveFloat = 5e-4
    betas: Annotated[list[Probability], Field(min_length=2, max_length=2)] = [0.9, 0.99]
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 1e-4


class LearningRateSchedule(Section):
    """`lr_sched`: the learning rate schedule."""

    type: str = "constant"
    warmup: Probability = 0.0


class EMASchedule(Section):
    """`ema_sched`: the schedule of the EMA decay."""

    type: str = "inverse"
    power: PositiveFloat = 0.6667
    max_value: Probability = 0.9999


class Config(Section):
    """The complete config."""

    model: Model
    dataset: Dataset = Field(default_factory=Dataset)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    lr_sched: LearningRateSchedule = Field(default_factory=LearningRateSchedule)
    ema_sched: EMASchedule = Field(default_factory=EMASchedule)


def read_config(config: Any) -> Config:
    """Return a validated config with defaults filled in.

    Raises:
        CheckpointError: keys are missing, have a wrong type, or describe a network that hdit does not support; one
            line names up to four of them.
    """
    try:
        return Config.model_validate(config)
    except ValidationError as error:
        mistakes = [_mistake(detail["loc"], detail) for detail in error.errors()]
        more = f"; and {len(mistakes) - 4} more" if len(mistakes) > 4 else ""
        raise CheckpointError("k-diffusion config: " + "; ".join(mistakes[:4]) + more) from None


def _mistake(keys: tuple[str | int, ...], detail: Any) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in keys).removeprefix(".")
    expected = detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if detail["type"] == "missing":
        return f"{key}: missing"
    if detail["type"] == "value_error" or isinstance(detail["input"], dict | list):
        return f"{key}: {expected}"
    return f"{key} = {str(detail['input'])[:60]!r}: {expected}"
