"""Whether two sets and an extractor fit together: what is refused, and what a reader of the score has to know."""

from dataclasses import replace
from pathlib import Path

import torch

from hdit_core.checkpoint.denoiser import attention_notes
from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.data.image_sets.open_images import open_images
from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.extractors.extractor import Extractor, Say
from hdit_core.evaluate.features.measure import Measurement
from hdit_core.evaluate.generated import check_classes, generated_images
from hdit_core.evaluate.metrics.frechet_distance import FrechetDistance
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.evaluate.statistics_file import holds_statistics, load_statistics
from hdit_core.generate.settings import open_denoiser, sample_settings, with_sample

LEAST_FOR_KERNEL = 4
ROUNDING = 1e-6  # of a covariance's trace: more negative eigenvalue than this is damage


def check_enough(path: str, count: int | None, extractor: Extractor, allow_small_n: bool) -> None:
    """Refuse a set with no more images than there are features.

    Raises:
        UsageError: it is too small, and nobody said that it may be.
    """
    if count is not None and count <= extractor.num_features and not allow_small_n:
        raise UsageError(
            f"{path}: {count} images are too few for the {extractor.num_features} features of {extractor.name}; "
            f"score at least {extractor.num_features + 1}, or pass --allow-small-n for a number that "
            "compares only with itself"
        )


def check_same_extractor(saved: Measurement, extractor: Extractor) -> None:
    """Refuse saved statistics of another extractor.

    Raises:
        DataError: they have other features, or say that something else made them.
    """
    mend = "give the extractor that made it, or make it anew with hdit eval-fid stats"
    found = saved.statistics.num_features
    if found != extractor.num_features:
        raise DataError(
            f"{saved.source['path']}: has {found} features, --extractor {extractor.name} gives "
            f"{extractor.num_features}; {mend}"
        )
    for key, expected in extractor.provenance.items() if saved.extractor else ():
        if saved.extractor.get(key) != expected:
            raise DataError(
                f"{saved.source['path']}: was made with {key} = {saved.extractor.get(key)}, --extractor "
                f"{extractor.name} has {expected}; {mend}"
            )


def remarks_on(scored: Measurement, reference: Measurement, frechet: FrechetDistance) -> list[str]:
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


DEFAULT_EXTRACTOR = "inception"


def open_reference(location: str | None) -> ImageSet | Measurement | None:
    """Return the images or the saved statistics that a set is compared with; None where it is not compared.

    Raises:
        UsageError: there is nothing at the place.
        DataError: it is empty or damaged.
    """
    if location is None:
        return None
    path = Path(location)
    if path.suffix == ".npz" and not path.exists():
        raise UsageError(f"{path}: no such file; expected statistics, as hdit eval-fid stats makes them, or images")
    return load_statistics(path) if path.suffix == ".npz" and holds_statistics(path) else open_images(location)


def open_scored(
    settings: ScoreSettings, reference: ImageSet | Measurement | None, device: torch.device, say: Say
) -> tuple[ImageSet, str]:
    """Return the images to score, and the extractor to take where none is named.

    Args:
        settings: what is scored.
        reference: what it is compared with, whose classes a checkpoint's images may have.
        device: where a checkpoint's images are drawn.
        say: told who computes a checkpoint's attention.

    Raises:
        UsageError: what is asked for does not go with the set, or with the reference.
        DataError: the set is empty or damaged.
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    if settings.nearest is not None and not (isinstance(reference, ImageSet) and reference.identity):
        raise UsageError(f"--nearest {settings.nearest}: needs images as --ref, not statistics or a stream")
    if settings.checkpoint is not None:
        return _open_checkpoint(settings, settings.checkpoint, reference, device, say)
    assert settings.images is not None  # check_settings saw to it
    images = open_images(settings.images, settings.n, settings.seed)
    if settings.nearest is not None and not images.identity:
        raise UsageError(f"--nearest {settings.nearest}: a stream can be read once; give a file or folder")
    return images, DEFAULT_EXTRACTOR


def _open_checkpoint(
    settings: ScoreSettings, path: str, reference: ImageSet | Measurement | None, device: torch.device, say: Say
) -> tuple[ImageSet, str]:
    denoiser, defaults = open_denoiser(path, settings.checkpoint_weights, device)
    for line in [*attention_notes(denoiser), *([defaults.note] if defaults.note else [])]:
        say(line)
    denoiser = with_sample(denoiser, sample_settings(denoiser.recipe, settings.overrides, **settings.drawn))
    wanted = denoiser.recipe.evaluate
    n = settings.n or wanted.num_images
    if reference is not None:
        check_classes(denoiser.recipe, reference.source, settings.labels, say)
    counts = reference.source.get("class_counts") if reference else None
    images = generated_images(denoiser, path, n, settings.seed, settings.labels, counts)
    named = {"weights": settings.checkpoint_weights or defaults.weights}  # for people; the hash says what they are
    return replace(images, source=images.source | named), wanted.extractor


def check_fit(side: ImageSet | Measurement | None, extractor: Extractor, allow_small_n: bool) -> None:
    """Refuse statistics of another extractor, and sets that are known to be too small for this one.

    Raises:
        UsageError: the set is too small, and nobody said that it may be.
        DataError: something else made the statistics.
    """
    if side is None:
        return
    if isinstance(side, Measurement):
        check_same_extractor(side, extractor)
    count = side.statistics.n if isinstance(side, Measurement) else side.count
    check_enough(side.source["path"], count, extractor, allow_small_n)
