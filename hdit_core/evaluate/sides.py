"""The two sides of a score, opened by what the settings say of them: images, saved statistics, or a checkpoint."""

from dataclasses import replace
from pathlib import Path

import torch

from hdit_core.checkpoint.denoiser import attention_notes
from hdit_core.errors import UsageError
from hdit_core.evaluate.classmap import check_classes
from hdit_core.evaluate.extractor import Extractor, Say
from hdit_core.evaluate.fit import check_enough, check_same_extractor
from hdit_core.evaluate.generated import generated_images
from hdit_core.evaluate.imageset import ImageSet
from hdit_core.evaluate.measure import Measurement
from hdit_core.evaluate.pictures import open_images
from hdit_core.evaluate.reference import holds_statistics, load_statistics
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.generate.defaults import open_denoiser, with_sample
from hdit_core.generate.settings import sample_settings

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
