"""Options of the commands that generate images, in groups."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from hdit_cli.options.shared import (
    INPUT,
    OUTPUT,
    RECIPES,
    WEIGHTS,
    BatchSizeOption,
    CheckpointOption,
    DrawnWeightsOption,
    SampleSetOption,
    SeedOption,
    image_size,
)
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    import torch

    from hdit_core.diffusion.guidance import Guide


AUTOGUIDANCE = 2.0  # scale close to the best ones of Karras et al. (2024, table 1)
SAMPLERS = (
    "euler (DDIM), euler_ancestral, heun, dpm_2, dpm_2_ancestral, lms, dpm_fast, dpm_adaptive, dpmpp_2s_ancestral, "
    "dpmpp_sde, dpmpp_2m, dpmpp_2m_sde, dpmpp_3m_sde, unipc"
)  # a literal, since an import of the recipe would slow down every --help

ImagesOutOption = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="Folder, or a file .tar or .npz; - writes a tar to stdout.", rich_help_panel=OUTPUT
    ),
]

ImageSizeOption = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="N|HxW",
        help="Height and width in pixels; one number for both.",
        show_default="the training size",
        rich_help_panel="Sampling",
    ),
]
"""A text; `image_size` converts it."""


ClassOption = Annotated[
    int | None,
    typer.Option(
        "--class",
        min=0,
        metavar="ID",
        help="Class index for all images; num_classes for the unconditional (null) class.",
        show_default="cycles through all classes",
    ),
]

RestoredClassOption = Annotated[
    int | None,
    typer.Option("--class", min=0, metavar="ID", help="Class index for all images.", show_default="no class"),
]

SamplerOption = Annotated[
    str | None, typer.Option("--sampler", metavar="NAME", help=f"One of {SAMPLERS}.", show_default=RECIPES)
]

StepsOption = Annotated[
    int | None,
    typer.Option(
        "--steps",
        min=1,
        help="Sampler steps; heun and dpm_2 evaluate the network twice in each.",
        show_default=RECIPES,
    ),
]

GuidanceOption = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        min=0,
        metavar="SCALE",
        help="Classifier-free guidance scale; 1 disables it.",
        show_default=RECIPES,
    ),
]

IntervalOption = Annotated[
    str | None,
    typer.Option(
        "--guidance-interval",
        metavar="LOW:HIGH",
        help="Apply guidance only at noise levels LOW < sigma <= HIGH; sampler steps outside need one evaluation of "
        "the network instead of two.",
        show_default=RECIPES,
    ),
]

RescaleOption = Annotated[
    float | None,
    typer.Option(
        "--guidance-rescale",
        min=0,
        max=1,
        metavar="PHI",
        help="Guidance rescale factor (Lin et al. 2023); 0 disables it.",
        show_default=RECIPES,
    ),
]

GuideOption = Annotated[
    Path | None,
    typer.Option(
        "--guide",
        metavar="CKPT",
        help="Autoguidance: run or checkpoint of a weaker model (Karras et al. 2024); works without classes.",
    ),
]

GuideWeightsOption = Annotated[
    str | None,
    typer.Option("--guide-weights", metavar=WEIGHTS, help="Weights of the guide model.", show_default="as --weights"),
]

AutoguidanceOption = Annotated[
    float | None,
    typer.Option(
        "--autoguidance",
        min=0,
        metavar="SCALE",
        help="Autoguidance scale, with --guide; 1 disables it.",
        show_default=f"{AUTOGUIDANCE:g}",
    ),
]


def noise_levels(text: str) -> list[float]:
    """Read `"0.28:2.9"` (or `"0.28,2.9"`): two noise levels, the lower one first.

    Raises:
        UsageError: the text has another form.
    """
    number = r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,3})?)\s*"
    match = re.fullmatch(rf"\[?{number}[,:]{number}\]?", text.strip())
    if match is None or not float(match[1]) < float(match[2]) < float("inf"):
        raise UsageError(f"--guidance-interval {text}: expected LOW:HIGH in sigma, for example 0.28:2.9")
    return [float(match[1]), float(match[2])]


@dataclass(frozen=True)
class ModelOptions:
    """The model, the size of its images, and overrides of its `[sample]` settings."""

    SECTION: ClassVar[str] = INPUT

    ckpt: CheckpointOption
    weights: DrawnWeightsOption = None
    size: ImageSizeOption = None
    overrides: SampleSetOption = None

    def __post_init__(self) -> None:
        """Refuse a malformed size, with a UsageError."""
        _ = self.pixels

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Height and width; None: the recipe's."""
        return None if self.size is None else image_size(self.size)


@dataclass(frozen=True)
class GuidanceOptions:
    """Classifier-free guidance and autoguidance."""

    SECTION: ClassVar[str] = "Guidance"

    guidance: GuidanceOption = None
    interval: IntervalOption = None
    rescale: RescaleOption = None
    guide: GuideOption = None
    guide_weights: GuideWeightsOption = None
    autoguidance: AutoguidanceOption = None

    def __post_init__(self) -> None:
        """Refuse, with a UsageError, a malformed interval or scale, and options of a guide without --guide."""
        _ = self.settings
        if self.autoguidance is not None and not math.isfinite(self.autoguidance):
            raise UsageError(f"--autoguidance {self.autoguidance}: expected a finite number")
        for option, value in (("--autoguidance", self.autoguidance), ("--guide-weights", self.guide_weights)):
            if self.guide is None and value is not None:
                raise UsageError(f"{option} {value}: needs a weaker model; give one with --guide CKPT")

    @property
    def settings(self) -> Mapping[str, Any]:
        """Sampling settings by recipe key, None for the recipe's value."""
        interval = None if self.interval is None else noise_levels(self.interval)
        return {"guidance": self.guidance, "guidance_interval": interval, "guidance_rescale": self.rescale}

    def load(self, weights: str, device: "torch.device") -> "Guide | None":
        """Return the guide, None without one.

        Args:
            weights: those of the model, used for the guide too unless --guide-weights is given.
            device: of the guide.

        Raises:
            CheckpointError: it cannot be read.
            UsageError: it has other weights than --guide-weights.
        """
        if self.guide is None:
            return None
        from hdit_core.checkpoint.denoiser import check_weights, load_denoiser
        from hdit_core.diffusion.guidance import Guide

        denoiser = load_denoiser(self.guide, self.guide_weights or weights, device)
        check_weights(self.guide, self.guide_weights, denoiser.source)
        return Guide(denoiser, AUTOGUIDANCE if self.autoguidance is None else self.autoguidance)


@dataclass(frozen=True)
class SamplingOptions:
    """Seed, class and sampler."""

    SECTION: ClassVar[str] = "Sampling"

    seed: SeedOption = 0
    class_id: ClassOption = None
    sampler: SamplerOption = None
    steps: StepsOption = None
    batch_size: BatchSizeOption = None

    def __post_init__(self) -> None:
        """Refuse the name ddim, with a UsageError that names euler."""
        if self.sampler is not None and self.sampler.lower() == "ddim":
            raise UsageError(f"--sampler {self.sampler}: DDIM is euler here; use --sampler euler")

    @property
    def settings(self) -> Mapping[str, Any]:
        """Sampling settings by recipe key, None for the recipe's value."""
        return {"sampler": self.sampler, "steps": self.steps, "batch_size": self.batch_size}


@dataclass(frozen=True)
class RestoreSamplingOptions(SamplingOptions):
    """The same for inputs, which have no class by default."""

    class_id: RestoredClassOption = None
