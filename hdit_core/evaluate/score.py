"""The whole way from two sets of images to a score, with everything that can go wrong asked for first."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from hdit_core.checkpoint import load_denoiser
from hdit_core.devices import pick_device
from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.distance import FrechetDistance, frechet_distance, kernel_distance
from hdit_core.evaluate.extractor import Extractor, Say, open_extractor
from hdit_core.evaluate.generated import generated_images
from hdit_core.evaluate.measure import Measurement, OnProgress, measure
from hdit_core.evaluate.pictures import ImageSet, open_images
from hdit_core.evaluate.reference import check_statistics_path, load_statistics, save_statistics
from hdit_core.evaluate.report import SavedStatistics, Score

DEFAULT_EXTRACTOR = "inception"
LEAST_FOR_KERNEL = 4
ROUNDING = 1e-6  # of a covariance's trace: more negative eigenvalue than this is damage


@dataclass(frozen=True)
class ScoreSettings:
    """What is scored, against what, and how.

    Attributes:
        images: a folder, an archive or a data set; None where a checkpoint is scored.
        reference: the same, or saved statistics (.npz); None to make statistics of the images alone.
        checkpoint: a run or checkpoint whose images are drawn and scored, with its averaged weights.
        extractor: name of the feature network; default the checkpoint's recipe's, otherwise Inception.
        weights: file of its weights.
        n: how many of the images; default all, and of a checkpoint's as many as its recipe says.
        batch_size: images at once in the feature network; default what suits it.
        device: name of the device.
        seed: of generated images, of the choice of n images, and of the kernel distance's subsets.
        allow_small_n: score sets with no more images than there are features.
        save_stats: where the statistics of the images are kept, as a reference for later scores.
    """

    images: str | None
    reference: str | None
    checkpoint: str | None = None
    extractor: str | None = None
    weights: Path | None = None
    n: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    seed: int = 0
    allow_small_n: bool = False
    save_stats: Path | None = None


def score(
    settings: ScoreSettings, on_progress: OnProgress = lambda done, total: None, say: Say = lambda _: None
) -> Score | SavedStatistics:
    """Score images against a reference, or without one save their statistics.

    Args:
        settings: what and how.
        on_progress: called with how many images of both sets are done, of how many.
        say: told of what takes long.

    Raises:
        UsageError: the settings contradict each other, or a set is too small.
        DataError: a set is empty, damaged or not of the extractor's kind.
        HditError: as `open_extractor`.
    """
    _check(settings)
    device = pick_device(settings.device)
    images, default_extractor = _open_images(settings, device)
    reference = _open_reference(settings)
    extractor = open_extractor(settings.extractor or default_extractor, settings.weights, device, say)
    for side in (images, reference):
        _check_fit(side, extractor, settings.allow_small_n)

    total = images.count + (reference.count if isinstance(reference, ImageSet) else 0)

    def measured(chosen: ImageSet, done_before: int) -> Measurement:
        show = partial(_show, on_progress, done_before, total)
        return measure(chosen, extractor, settings.batch_size, show)

    scored = measured(images, 0)
    if settings.save_stats is not None:
        save_statistics(settings.save_stats, scored)
    if reference is None:
        assert settings.save_stats is not None  # _check saw to it
        return SavedStatistics(settings.save_stats, scored)
    against = reference if isinstance(reference, Measurement) else measured(reference, images.count)
    return compare(scored, against, extractor, settings.seed)


def _show(on_progress: OnProgress, done_before: int, total: int, done: int, _: int) -> None:
    on_progress(done_before + done, total)


def compare(scored: Measurement, reference: Measurement, extractor: Extractor, seed: int = 0) -> Score:
    """Return the distances of two measurements by the same extractor.

    Raises:
        NumericalError: they are not finite.
    """
    a, b = scored.statistics, reference.statistics
    frechet = frechet_distance(a, b)
    enough = min(len(a.features), len(b.features)) >= LEAST_FOR_KERNEL
    kernel = kernel_distance(a.features, b.features, seed) if enough else None
    remarks = dict.fromkeys([*scored.remarks, *reference.remarks, *_remarks(scored, reference, frechet)])
    return Score(extractor.metric, extractor.kernel_metric, frechet, kernel, scored, reference, tuple(remarks))


def _check(settings: ScoreSettings) -> None:
    """Refuse settings that contradict each other."""
    if (settings.images is None) == (settings.checkpoint is None):
        raise UsageError("expected either IMAGES (a folder, an archive or a data set) or --ckpt RUN")
    if settings.reference is None and settings.save_stats is None:
        raise UsageError("--ref is missing: a data set, a folder, or statistics made with --save-stats")
    if settings.save_stats is not None:
        check_statistics_path(settings.save_stats)


def _open_images(settings: ScoreSettings, device: torch.device) -> tuple[ImageSet, str]:
    """Return the images to score, and the extractor to take where none is named."""
    if settings.checkpoint is None:
        assert settings.images is not None  # _check saw to it
        return open_images(settings.images, settings.n, settings.seed), DEFAULT_EXTRACTOR
    denoiser = load_denoiser(settings.checkpoint, device=device)
    wanted = denoiser.recipe.evaluate
    images = generated_images(denoiser, settings.checkpoint, settings.n or wanted.num_images, settings.seed)
    return images, wanted.extractor


def _open_reference(settings: ScoreSettings) -> ImageSet | Measurement | None:
    if settings.reference is None:
        return None
    saved = Path(settings.reference).suffix == ".npz"
    return load_statistics(Path(settings.reference)) if saved else open_images(settings.reference)


def _check_fit(side: ImageSet | Measurement | None, extractor: Extractor, allow_small_n: bool) -> None:
    """Refuse statistics of another extractor, and sets that are too small for this one."""
    if isinstance(side, Measurement):
        _check_same_extractor(side, extractor)
    count = side.statistics.n if isinstance(side, Measurement) else side.count if side else None
    if side is not None and count is not None and count <= extractor.num_features and not allow_small_n:
        raise UsageError(
            f"{side.source['path']}: {count} images are too few for the {extractor.num_features} features of "
            f"{extractor.name}; score at least {extractor.num_features + 1}, or pass --allow-small-n for a number that "
            "compares only with itself"
        )


def _check_same_extractor(saved: Measurement, extractor: Extractor) -> None:
    mend = "give the extractor that made it, or make it anew with --save-stats"
    found = saved.statistics.num_features
    if found != extractor.num_features:
        raise DataError(
            f"{saved.source['path']}: has {found} features, --extractor {extractor.name} gives "
            f"{extractor.num_features}; {mend}"
        )
    for key, expected in extractor.passport.items() if saved.extractor else ():
        if saved.extractor.get(key) != expected:
            raise DataError(
                f"{saved.source['path']}: was made with {key} = {saved.extractor.get(key)}, --extractor "
                f"{extractor.name} has {expected}; {mend}"
            )


def _remarks(scored: Measurement, reference: Measurement, frechet: FrechetDistance) -> list[str]:
    """Return what a reader has to know about these two sets."""
    a, b = scored.statistics, reference.statistics
    fewest = min(n for n in (a.n, b.n) if n is not None)
    few = (
        f"{fewest} images are no more than the {a.num_features} features: biased upwards, and compares only with "
        "itself at the same numbers of images"
    )
    clipped = f"negative eigenvalues of {frechet.clipped_mass:.3g} were clipped: the saved statistics may be damaged"
    no_kernel = f"no kernel distance: it needs the features of {LEAST_FOR_KERNEL} images on both sides"
    found = {
        few: fewest <= a.num_features,
        "both sets hold the very same images": a.fingerprint == b.fingerprint,
        clipped: frechet.clipped_mass > ROUNDING * float(a.covariance.trace() + b.covariance.trace()),
        no_kernel: min(len(a.features), len(b.features)) < LEAST_FOR_KERNEL,
        **_differences(scored, reference),
    }
    return [remark for remark, holds in found.items() if holds]


def _differences(scored: Measurement, reference: Measurement) -> dict[str, bool]:
    """Return in what the images of the two sets are unlike, where it is known."""
    if "size" not in reference.source:
        return {}
    sizes = scored.source["size"], reference.source["size"]
    all_grey = [side.source["num_grey"] == side.statistics.n for side in (scored, reference)]
    return {
        f"the images are {sizes[0]} pixels, those of the reference {sizes[1]}": sizes[0] != sizes[1],
        "the images of one set are all grey, those of the other are not": all_grey[0] != all_grey[1],
    }
