"""Options of `hdit eval-fid` and of the commands that score beside it, declared once and bundled."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hdit_cli.options.shared import DeviceOption, SeedOption


class Mode(StrEnum):
    """How images are resized for Inception."""

    CLEAN = "clean"
    ADM = "adm"


class Labels(StrEnum):
    """Which classes a checkpoint's images have."""

    BALANCED = "balanced"
    UNIFORM = "uniform"
    DATA = "data"


ExtractorOption = Annotated[
    str | None,
    typer.Option(
        "--extractor",
        metavar="NAME",
        help="inception; efficientnet-lite0, which works offline; dinov2; or a package's.",
        show_default="inception; for images of a run the recipe's",
    ),
]
ExtractorWeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--extractor-weights",
        "--inception-weights",
        metavar="PATH",
        help="File of the extractor's weights.",
        show_default="cache, download",
    ),
]
ModeOption = Annotated[
    Mode, typer.Option("--mode", help="Resize as clean-fid does, or inside Inception's graph as ADM's evaluator does.")
]
CountOption = Annotated[
    int | None,
    typer.Option(
        "--n",
        "--count",
        min=1,
        metavar="N",
        help="Images to score; torchrun passes on only --count.",
        show_default="all; for images of a run the recipe's number",
    ),
]
SmallOption = Annotated[
    bool, typer.Option("--allow-small-n", help="Score sets with no more images than there are features.")
]
KeepOption = Annotated[
    Path | None,
    typer.Option("--keep-features", metavar="DIR", help="Keep features there: a killed run goes on where it was."),
]
NetworkBatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size", min=1, max=128, metavar="N", help="Images at once in the network.", show_default="what suits it"
    ),
]
ImagesArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="IMAGES",
        help="Folder, zip, tar, npz or data set of images; - for a tar on stdin.",
        show_default=False,
    ),
]
DataArgument = Annotated[
    str,
    typer.Argument(metavar="DATA", help="Folder, zip, tar, npz or data set; - for a tar on stdin.", show_default=False),
]
ReferenceOption = Annotated[
    str | None, typer.Option("--ref", metavar="DATA", help="The same, or saved statistics (.npz).")
]
DrawnOption = Annotated[
    str | None,
    typer.Option("--ckpt", metavar="PATH", help="In place of IMAGES: a run or checkpoint; its images are drawn."),
]
DrawnWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="NAME",
        help="Of the checkpoint: ema, model, or the length of an average such as 0.08.",
        show_default="RUN/sample.toml's, or ema",
    ),
]
DrawnSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="sample.KEY=VALUE", help="How --ckpt's images are drawn; repeatable.", show_default=False
    ),
]
LabelsOption = Annotated[
    Labels,
    typer.Option("--labels", help="Classes of the images that are drawn: in turn, by chance, or as often as in --ref."),
]
NearestOption = Annotated[
    Path | None,
    typer.Option("--nearest", metavar="FILE.png", help="Draw the images nearest to the reference beside it."),
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.html", help="Write a page with numbers, pictures and passport."),
]
SaveStatsOption = Annotated[
    Path | None,
    typer.Option("--save-stats", metavar="FILE.npz", help="Keep the statistics of IMAGES, for a later --ref."),
]


@dataclass(frozen=True)
class ScoringOptions:
    """By which network images are scored, and on what."""

    extractor: ExtractorOption = None
    extractor_weights: ExtractorWeightsOption = None
    mode: ModeOption = Mode.CLEAN
    allow_small_n: SmallOption = False
    seed: SeedOption = 0
    batch_size: NetworkBatchOption = None
    device: DeviceOption = "auto"

    @property
    def settings(self) -> dict[str, Any]:
        """What `ScoreSettings` calls them."""
        how = {"extractor": self.extractor, "weights": self.extractor_weights, "mode": self.mode.value}
        run = {"seed": self.seed, "batch_size": self.batch_size, "device": self.device}
        return {**how, **run, "allow_small_n": self.allow_small_n}


@dataclass(frozen=True)
class GeneratedOptions:
    """A model whose images are drawn to be scored, in place of some that are there."""

    ckpt: DrawnOption = None
    weights: DrawnWeightsOption = None
    overrides: DrawnSetOption = None
    labels: LabelsOption = Labels.BALANCED

    @property
    def settings(self) -> dict[str, Any]:
        """What `ScoreSettings` calls them."""
        which = {"checkpoint": self.ckpt, "checkpoint_weights": self.weights}
        return {**which, "overrides": self.overrides or (), "labels": self.labels.value}
