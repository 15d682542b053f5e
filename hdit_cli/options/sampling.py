"""How images are drawn, for the commands that draw some or ask what was drawn: their options, bundled."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hdit_cli.options.evaluation import DrawnWeightsOption
from hdit_cli.options.shared import (
    RECIPES,
    WEIGHTS,
    BatchSizeOption,
    CheckpointOption,
    ClassOption,
    GuidanceOption,
    SamplerOption,
    SeedOption,
    SizeOption,
    StepsOption,
    image_size,
)
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    import torch

    from hdit_core.diffusion.guidance import Guide


AUTOGUIDANCE = 2.0  # a weight near which Karras et al. (2024, table 1) find the best of their models

SampleSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="sample.KEY=VALUE",
        help="Any other key of the recipe's [sample]; repeatable.",
        show_default=False,
    ),
]

IntervalOption = Annotated[
    str | None,
    typer.Option(
        "--guidance-interval",
        metavar="LOW,HIGH",
        help="Guide only where LOW < sigma <= HIGH; the rest takes half the time.",
        show_default=RECIPES,
    ),
]

RescaleOption = Annotated[
    float | None,
    typer.Option(
        "--guidance-rescale",
        min=0,
        max=1,
        metavar="SHARE",
        help="How far to give guided images the contrast of unguided ones; 0: not.",
        show_default=RECIPES,
    ),
]

GuideOption = Annotated[
    Path | None,
    typer.Option(
        "--guide",
        metavar="CKPT",
        help="Lead away from a worse model: an earlier or smaller run. Needs no classes.",
        show_default=False,
    ),
]

GuideWeightsOption = Annotated[
    str | None,
    typer.Option("--guide-weights", metavar=WEIGHTS, help="Which of the guide's weights.", show_default="as --weights"),
]

AutoguidanceOption = Annotated[
    float | None,
    typer.Option(
        "--autoguidance", min=0, metavar="W", help="How far to lead away from --guide; 1: not at all.", show_default="2"
    ),
]


def noise_levels(text: str) -> list[float]:
    """Read `"0.28,2.9"`: two noise levels, the lower one first.

    Raises:
        UsageError: it is not of that form.
    """
    number = r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,3})?)\s*"
    match = re.fullmatch(f"{number},{number}", text)
    if match is None or not float(match[1]) < float(match[2]) < float("inf"):
        raise UsageError(f"--guidance-interval {text}: expected LOW,HIGH in sigma, for example 0.28,2.9")
    return [float(match[1]), float(match[2])]


@dataclass(frozen=True)
class ModelOptions:
    """What draws, the size of what it draws, and keys of its `[sample]` in place of the run's."""

    ckpt: CheckpointOption
    weights: DrawnWeightsOption = None
    size: SizeOption = None
    overrides: SampleSetOption = None

    def __post_init__(self) -> None:
        """Refuse, with a UsageError, a size that is none."""
        _ = self.pixels

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Height and width that were asked for; None: the recipe's."""
        return None if self.size is None else image_size(self.size)


@dataclass(frozen=True)
class GuidanceOptions:
    """What images are led away from, and how far."""

    guidance: GuidanceOption = None
    interval: IntervalOption = None
    rescale: RescaleOption = None
    guide: GuideOption = None
    guide_weights: GuideWeightsOption = None
    autoguidance: AutoguidanceOption = None

    def __post_init__(self) -> None:
        """Refuse, with a UsageError, an interval that is none, and words on a guide that there is not."""
        _ = self.settings
        for option, value in (("--autoguidance", self.autoguidance), ("--guide-weights", self.guide_weights)):
            if self.guide is None and value is not None:
                raise UsageError(f"{option} {value}: needs a model to lead away from; give one with --guide CKPT")

    @property
    def settings(self) -> Mapping[str, Any]:
        """Sampling settings by key, None where the recipe's count."""
        interval = None if self.interval is None else noise_levels(self.interval)
        return {"guidance": self.guidance, "guidance_interval": interval, "guidance_rescale": self.rescale}

    def load(self, weights: str, device: "torch.device") -> "Guide | None":
        """Return the guide, None where there is to be none; its weights are those of the model if no others are named.

        Raises:
            CheckpointError: it cannot be read.
        """
        if self.guide is None:
            return None
        from hdit_core.checkpoint import load_denoiser
        from hdit_core.diffusion.guidance import Guide

        denoiser = load_denoiser(self.guide, self.guide_weights or weights, device)
        return Guide(denoiser, AUTOGUIDANCE if self.autoguidance is None else self.autoguidance)


@dataclass(frozen=True)
class SamplingOptions:
    """Which images of the model, and on what way they are drawn."""

    seed: SeedOption = 0
    class_id: ClassOption = None
    sampler: SamplerOption = None
    steps: StepsOption = None
    batch_size: BatchSizeOption = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Sampling settings by key, None where the recipe's count."""
        return {"sampler": self.sampler, "steps": self.steps, "batch_size": self.batch_size}
