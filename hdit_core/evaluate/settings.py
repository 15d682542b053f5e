"""What is to be scored, against what and how; and what contradicts itself in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hdit_core.data.image_sets.open_images import STDIN
from hdit_core.errors import UsageError
from hdit_core.evaluate.extractors.extractor import Mode
from hdit_core.evaluate.generated import Labels
from hdit_core.evaluate.statistics_file import check_statistics_path


@dataclass(frozen=True)
class ScoreSettings:
    """What is scored, against what, and how.

    Attributes:
        images: a folder, an archive, an npz, a data set, or "-"; None where a checkpoint is scored.
        reference: the same, or saved statistics (.npz); None to make statistics of the images alone.
        checkpoint: a run or checkpoint whose images are drawn and scored, with its averaged weights.
        checkpoint_weights: which of the checkpoint's weights; default what RUN/sample.toml says, or the averaged ones.
        drawn: keys of its recipe's `[sample]` in place of the recipe's and those of RUN/sample.toml.
        overrides: the same as `sample.key=value`, weaker than `drawn`.
        extractor: name of the feature network; default the checkpoint's recipe's, otherwise Inception.
        weights: file of its weights.
        mode: how images are resized for Inception.
        n: how many of the images; default all, and of a checkpoint's as many as its recipe says.
        labels: classes of a checkpoint's images.
        batch_size: images at once in the feature network; default what suits it.
        device: name of the device.
        seed: of generated images, of the choice of n images, and of the kernel distance's subsets.
        allow_small_n: score sets with no more images than there are features.
        save_stats: where the statistics of the images are kept, as a reference for later scores.
        keep_features: folder in which features are kept as they come, so that a killed run goes on.
        nearest: where a sheet of the images beside their nearest in the reference is written, a PNG.
        report: where the result is written as a page for people, HTML.
        figures: curves for that page beside its own, as title and SVG.
    """

    images: str | None
    reference: str | None
    checkpoint: str | None = None
    checkpoint_weights: str | None = None
    drawn: Mapping[str, object] = field(default_factory=dict)
    overrides: Sequence[str] = ()
    extractor: str | None = None
    weights: Path | None = None
    mode: Mode = "clean"
    n: int | None = None
    labels: Labels = "balanced"
    batch_size: int | None = None
    device: str = "auto"
    seed: int = 0
    allow_small_n: bool = False
    save_stats: Path | None = None
    keep_features: Path | None = None
    nearest: Path | None = None
    report: Path | None = None
    figures: Sequence[tuple[str, str]] = ()


def check_settings(settings: ScoreSettings) -> None:
    """Refuse settings that contradict each other, before an hour is spent on them.

    Raises:
        UsageError: saying which.
    """
    if (settings.images is None) == (settings.checkpoint is None):
        found = "neither" if settings.images is None else f"{settings.images} and --ckpt {settings.checkpoint}"
        raise UsageError(f"expected either IMAGES (a folder, an archive or a data set) or --ckpt RUN, found {found}")
    if settings.images == settings.reference == STDIN:
        raise UsageError("-: one stream cannot be both the images and the reference")
    if settings.reference is None and settings.save_stats is None:
        raise UsageError("--ref is missing: a data set, a folder, or statistics made with hdit eval-fid stats")
    if settings.reference is None and settings.report is not None:
        raise UsageError(f"--report {settings.report}: there is no score to report without --ref; leave it out")
    if settings.checkpoint is None and settings.labels != "balanced":
        raise UsageError(f"--labels {settings.labels}: goes with --ckpt; images that are there have their classes")
    if settings.checkpoint is None and (settings.checkpoint_weights or settings.overrides):
        raise UsageError("--weights and --set go with --ckpt; images that are there are drawn")
    if settings.save_stats is not None:
        check_statistics_path(settings.save_stats)
    _check_path("--nearest", settings.nearest, ".png")
    _check_path("--report", settings.report, ".html")


def _check_path(option: str, path: Path | None, ending: str) -> None:
    if path is not None and path.suffix != ending:
        raise UsageError(f"{option} {path}: expected a name that ends in {ending}")
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}")
