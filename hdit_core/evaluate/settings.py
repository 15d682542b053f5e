"""Settings of a score: images, reference, extractor, outputs; and checks for contradictions between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.errors import UsageError
from hdit_core.evaluate.extractors.extractor import Mode
from hdit_core.evaluate.generated import Labels
from hdit_core.files import STDIN, check_output
from hdit_core.recipe.base_table import PositiveInt, Seed


@dataclass(frozen=True)
class ScoreSettings:
    """What is scored, against what, and how.

    Attributes:
        images: a folder, an archive, an npz, a data set, or "-" for tars on stdin; or a set that is open; None to score
            a checkpoint.
        reference: the same, or saved statistics (.npz); None for a checkpoint's training data, or with `save_stats`
            to save statistics without a score.
        checkpoint: a run or checkpoint whose samples are scored.
        checkpoint_weights: which of its weights; default those in RUN/sample.toml, otherwise the EMA weights.
        sampling: keys of `[sample]` that override the recipe and RUN/sample.toml.
        overrides: the same as `sample.key=value`, with lower precedence than `sampling`.
        extractor: name of the feature network; default the one of the checkpoint's recipe, otherwise Inception.
        weights: weight file of the extractor.
        mode: how images are resized for Inception.
        n: number of images; default all, for a checkpoint the number in its recipe.
        guide: a run or checkpoint of a weaker model, for autoguidance of a checkpoint's samples.
        guide_weights: which of its weights; default those of the checkpoint.
        autoguidance: the scale of autoguidance; 1 disables it.
        labels: classes of a checkpoint's samples.
        batch_size: batch size of the extractor; default: its own.
        device: name of the device.
        seed: of generated images, of the choice of n images, and of the kernel distance's subsets.
        allow_small_n: score sets with no more images than there are features.
        save_stats: where the statistics of the images are saved, as a reference for later scores.
        keep_features: folder in which features are cached, so that an interrupted evaluation resumes.
        paired: score each image against its original in the reference: PSNR, SSIM, and with `extractor` a distance.
        value_range: of pairs: the values of 16 bits or floats that count as black and white, one pair or one per
            channel; default: all values of integers, or the range that one of the sets records.
        nearest: where a sheet of samples and their nearest neighbors in the reference is written, a PNG.
        report: where an HTML report is written.
        figures: further figures of the report, as title and SVG.
        command: the command line, for the report.
    """

    images: str | ImageSet | None
    reference: str | None
    checkpoint: str | None = None
    checkpoint_weights: str | None = None
    sampling: Mapping[str, object] = field(default_factory=dict)
    overrides: Sequence[str] = ()
    guide: str | None = None
    guide_weights: str | None = None
    autoguidance: float = 2.0
    extractor: str | None = None
    weights: Path | None = None
    mode: Mode = "clean"
    n: PositiveInt | None = None
    labels: Labels = "balanced"
    batch_size: PositiveInt | None = None
    device: str = "auto"
    seed: Seed = 0
    allow_small_n: bool = False
    save_stats: Path | None = None
    keep_features: Path | None = None
    paired: bool = False
    value_range: tuple[tuple[float, float], ...] = ()
    nearest: Path | None = None
    report: Path | None = None
    figures: Sequence[tuple[str, str]] = ()
    command: str = ""


def check_settings(settings: ScoreSettings) -> None:
    """Refuse settings that contradict each other, before any image is read.

    Raises:
        UsageError: two settings contradict each other.
    """
    if (settings.images is None) == (settings.checkpoint is None):
        got = "neither" if settings.images is None else f"{settings.images} and --ckpt {settings.checkpoint}"
        raise UsageError(f"expected either IMAGES (a folder, an archive or a data set) or --ckpt RUN, got {got}")
    if isinstance(settings.images, ImageSet) and settings.n is not None:
        raise UsageError(f"n = {settings.n}: applies to images on disk; pass fewer samples")
    if settings.images == settings.reference == STDIN:
        raise UsageError("-: one stream cannot be both the images and the reference")
    if settings.reference is None and settings.save_stats is None and settings.checkpoint is None:
        raise UsageError("--ref is missing: pass a data set, a folder, or statistics of hdit eval-fid stats")
    if settings.reference is None and settings.save_stats is not None and settings.report is not None:
        raise UsageError(f"--report {settings.report}: without --ref there is no score to report; leave it out")
    if settings.checkpoint is None and settings.labels != "balanced":
        raise UsageError(f"--labels {settings.labels}: applies to --ckpt; existing images already have their classes")
    if settings.checkpoint is None and (settings.checkpoint_weights or settings.overrides):
        raise UsageError("--weights and --set apply to --ckpt; existing images are already sampled")
    if settings.checkpoint is None and settings.guide is not None:
        raise UsageError(f"--guide {settings.guide}: applies to --ckpt; existing images are already sampled")
    if settings.paired:
        _check_paired(settings)
    elif settings.value_range:
        raise UsageError("--range: applies to --paired; other scores are computed from 8-bit images")
    check_output("statistics", settings.save_stats, ".npz")
    check_output("--nearest", settings.nearest, ".png")
    check_output("--report", settings.report, ".html")


def _check_paired(settings: ScoreSettings) -> None:
    """Refuse options that do not apply to pairs."""
    if isinstance(settings.images, ImageSet):
        raise UsageError("paired: samples in memory have no names to find their originals by; save them to a folder")
    options = {
        "--ckpt": settings.checkpoint,
        "--report": settings.report,
        "--nearest": settings.nearest,
        "--save-stats": settings.save_stats,
        "--keep-features": settings.keep_features,
        "--batch-size": settings.batch_size,
    }
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option} {value}: does not apply to --paired; leave it out")
    if settings.allow_small_n:
        raise UsageError("--allow-small-n: does not apply to --paired, which takes any number of pairs; leave it out")
    mode = None if settings.mode == "clean" else settings.mode
    for option, value in (("--extractor-weights", settings.weights), ("--mode", mode)):
        if settings.extractor is None and value is not None:
            raise UsageError(f"{option} {value}: --paired has no extractor without --extractor NAME")
