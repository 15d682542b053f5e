"""Options of `hdit eval-fid` and of other commands that score images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer

from hdit_cli.options.shared import (
    INPUT,
    OUTPUT,
    PERFORMANCE,
    SAMPLING,
    WEIGHTS,
    DeviceOption,
    DrawnWeightsOption,
    SampleSetOption,
)
from hdit_core.errors import UsageError

METRIC = "Metric"

# As in hdit_core.evaluate, which is not imported here to keep `hdit --help` fast.
Mode = Literal["clean", "adm"]
Labels = Literal["balanced", "uniform", "data"]

ImagesArgument = Annotated[
    str | None,
    typer.Argument(metavar="IMAGES", help="Folder, zip, tar, npz or data set of images; - for tars on stdin."),
]
DataArgument = Annotated[
    str,
    typer.Argument(metavar="DATA", help="Folder, zip, tar, npz or data set; - for tars on stdin."),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        "--ref",
        metavar="DATA",
        help="Reference: images as for IMAGES, or saved statistics (.npz).",
        show_default="with --ckpt, the run's data",
        rich_help_panel=INPUT,
    ),
]
CheckpointImagesOption = Annotated[
    str | None,
    typer.Option(
        "--ckpt",
        metavar="CKPT",
        help="Instead of IMAGES: a run or checkpoint, whose samples are scored.",
        rich_help_panel=INPUT,
    ),
]
CountOption = Annotated[
    int | None,
    typer.Option(
        "--count",
        "-n",
        "--n",
        min=1,
        help="Number of images: a random subset of IMAGES, or of samples of --ckpt.",
        show_default="all, or the recipe's for --ckpt",
        rich_help_panel=INPUT,
    ),
]
ScoredGuideOption = Annotated[
    str | None,
    typer.Option(
        "--guide",
        metavar="CKPT",
        help="Autoguidance: run or checkpoint of a weaker model.",
        rich_help_panel=SAMPLING,
    ),
]
ScoredGuideWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--guide-weights",
        metavar=WEIGHTS,
        help="Weights of the guide.",
        show_default="as --weights",
        rich_help_panel=SAMPLING,
    ),
]
ScoredAutoguidanceOption = Annotated[
    float | None,
    typer.Option(
        "--autoguidance",
        min=0,
        metavar="SCALE",
        help="Autoguidance scale, with --guide; 1 disables it.",
        show_default="2",
        rich_help_panel=SAMPLING,
    ),
]
LabelsOption = Annotated[
    Labels,
    typer.Option(
        "--labels",
        metavar="balanced|uniform|data",
        help="Classes of samples: balanced (cycled), uniform (random), or data (the class distribution of --ref).",
        rich_help_panel=SAMPLING,
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(
        "--seed",
        min=0,
        help="Random seed for sampling, for the subset of --count images, and for KID.",
        rich_help_panel=METRIC,
    ),
]
PairedOption = Annotated[
    bool,
    typer.Option(
        "--paired",
        help="Compare each image with its original of the same name in --ref: PSNR, SSIM and, with --extractor, a "
        "feature distance.",
        rich_help_panel=METRIC,
    ),
]
PairedRangeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--range",
        metavar="LOW,HIGH",
        help="With --paired: black and white of 16-bit and float values; repeat it for each channel.",
        show_default="as recorded, or all integers",
        rich_help_panel=METRIC,
    ),
]
EXTRACTORS = (
    "Feature network: inception (a download of 96 MB); efficientnet-lite0 (needs no download, but the extra "
    "hdit-toolkit[demo]); dinov2 (needs the extra hdit-toolkit[dinov2] and --extractor-weights); or a plug-in's."
)
ExtractorOption = Annotated[
    str | None,
    typer.Option(
        "--extractor",
        metavar="NAME",
        help=EXTRACTORS,
        show_default="the samples' recipe's, or inception",
        rich_help_panel=METRIC,
    ),
]
ExtractorWeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--extractor-weights",
        "--inception-weights",
        help="Weight file of the extractor.",
        show_default="from the cache, or downloaded",
        rich_help_panel=METRIC,
    ),
]
ModeOption = Annotated[
    Mode,
    typer.Option(
        "--mode",
        metavar="clean|adm",
        help="Resizing for Inception: clean (as clean-fid), or adm (inside the graph, as ADM's evaluator).",
        rich_help_panel=METRIC,
    ),
]
SmallOption = Annotated[
    bool,
    typer.Option(
        "--allow-small-n",
        help="Score sets with no more images than feature dimensions (Inception: 2048); comparable only at equal n.",
        rich_help_panel=METRIC,
    ),
]
ReportOption = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE.html",
        help="Write an HTML report: metrics, image grids, provenance.",
        rich_help_panel=OUTPUT,
    ),
]
NearestOption = Annotated[
    Path | None,
    typer.Option(
        "--nearest",
        metavar="FILE.png",
        help="Write an image grid of samples and their nearest neighbors in --ref (memorization check).",
        rich_help_panel=OUTPUT,
    ),
]
SaveStatsOption = Annotated[
    Path | None,
    typer.Option(
        "--save-stats",
        metavar="FILE.npz",
        help="Save the statistics of IMAGES, for use as --ref.",
        rich_help_panel=OUTPUT,
    ),
]
KeepOption = Annotated[
    Path | None,
    typer.Option(
        "--keep-features",
        metavar="DIR",
        help="Cache features in this folder, so that an interrupted evaluation resumes.",
        rich_help_panel=PERFORMANCE,
    ),
]
FeatureBatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        max=128,
        help="Feature-extraction batch size.",
        show_default="the extractor's",
        rich_help_panel=PERFORMANCE,
    ),
]


@dataclass(frozen=True)
class ScoringOptions:
    """The extractor, and where it runs."""

    extractor: ExtractorOption = None
    extractor_weights: ExtractorWeightsOption = None
    mode: ModeOption = "clean"
    allow_small_n: SmallOption = False
    seed: SeedOption = 0
    batch_size: FeatureBatchOption = None
    device: DeviceOption = "auto"

    @property
    def settings(self) -> dict[str, Any]:
        """The same values under the names of `ScoreSettings`."""
        return {
            "extractor": self.extractor,
            "weights": self.extractor_weights,
            "mode": self.mode,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "device": self.device,
            "allow_small_n": self.allow_small_n,
        }


@dataclass(frozen=True)
class GeneratedOptions:
    """The model whose samples are scored, instead of existing images."""

    RENAMED_SECTIONS: ClassVar[Mapping[str, str]] = {SAMPLING: "Sampling (with --ckpt)"}

    ckpt: CheckpointImagesOption = None
    weights: DrawnWeightsOption = None
    overrides: SampleSetOption = None
    guide: ScoredGuideOption = None
    guide_weights: ScoredGuideWeightsOption = None
    autoguidance: ScoredAutoguidanceOption = None
    labels: LabelsOption = "balanced"

    def __post_init__(self) -> None:
        """Refuse, with a UsageError, options of a guide without --guide."""
        for option, value in (("--autoguidance", self.autoguidance), ("--guide-weights", self.guide_weights)):
            if self.guide is None and value is not None:
                raise UsageError(f"{option} {value}: needs a weaker model; give one with --guide CKPT")

    @property
    def settings(self) -> dict[str, Any]:
        """The same values under the names of `ScoreSettings`."""
        return {
            "checkpoint": self.ckpt,
            "checkpoint_weights": self.weights,
            "overrides": self.overrides or (),
            "guide": self.guide,
            "guide_weights": self.guide_weights,
            "labels": self.labels,
            **({} if self.autoguidance is None else {"autoguidance": self.autoguidance}),
        }
