"""Opens the images, the model and the reference of a score, refuses incompatible ones, and makes the remarks."""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from hdit_core.checkpoint.denoiser import load_denoiser, setup_notes
from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.data.image_sets.open_images import open_images
from hdit_core.devices import make_mkl_reproducible, pick_device
from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.distributed import World
from hdit_core.errors import DataError, UsageError, counted
from hdit_core.evaluate.extractors.extractor import Extractor
from hdit_core.evaluate.features.measure import Measurement
from hdit_core.evaluate.generated import check_classes, generated_images
from hdit_core.evaluate.metrics.frechet_distance import FrechetDistance
from hdit_core.evaluate.settings import ScoreSettings, check_settings
from hdit_core.evaluate.statistics_file import holds_statistics, load_statistics
from hdit_core.files import STDIN
from hdit_core.generate.output.sample_record import extractor_of_run, recorded_extractor, sampling_record
from hdit_core.generate.settings import DEFAULT_WEIGHTS, open_denoiser, read_defaults, sample_settings, with_sample
from hdit_core.recipe.run import Recipe

ALONE = World()
LEAST_FOR_KERNEL = 4
ROUNDING = 1e-6  # of a covariance's trace: a larger negative eigenvalue means damage
DEFAULT_EXTRACTOR = "inception"
PICKLES = (".pkl", ".pickle")

logger = logging.getLogger("hdit")


def start_scoring(settings: ScoreSettings, world: World) -> torch.device:
    """Check the settings of a score, make its results reproducible, and return the device that computes it.

    Raises:
        UsageError: the settings contradict each other, or several ranks would read a stream.
    """
    check_settings(settings)
    make_mkl_reproducible()
    if world.size > 1 and STDIN in (settings.images, settings.reference):
        raise UsageError(
            f"-: a stream can be read by one process only, got {world.size} ranks; start one, or pass a file"
        )
    return pick_device(settings.device) if world is ALONE else world.device


def open_reference(location: str | None) -> ImageSet | Measurement | None:
    """Return the images or the saved statistics of a reference; None if there is none.

    Raises:
        UsageError: there is nothing at `location`, or a pickle.
        DataError: it is empty or damaged.
    """
    if location is None:
        return None
    path = Path(location)
    if path.suffix.lower() in PICKLES:
        raise UsageError(
            f"{path}: a pickle, which can run commands, and is not opened; save its arrays mu and sigma to an npz with "
            "numpy where you trust it, see docs/evaluation.md#published-statistics"
        )
    is_npz = path.suffix.lower() == ".npz"
    if is_npz and not path.exists():
        raise UsageError(f"{path}: no such file; expected statistics of hdit eval-fid stats, or images")
    return load_statistics(path) if is_npz and holds_statistics(path) else open_images(location)


def open_model(settings: ScoreSettings, device: torch.device) -> Denoiser | None:
    """Return the model whose samples are scored, with its sampling settings; None for existing images.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        UsageError: the sampling settings are wrong, or the attention backend cannot run here.
    """
    if settings.checkpoint is None:
        return None
    denoiser, defaults = open_denoiser(settings.checkpoint, settings.checkpoint_weights, device)
    if denoiser.recipe.condition_image_channels or denoiser.recipe.model.mapping_cond_dim:
        raise UsageError(
            f"--ckpt {settings.checkpoint}: the network takes condition images or vectors, which a score has none of; "
            "score images of hdit restore (with --paired against the originals), or of hdit sample --condition"
        )
    note = defaults.note(settings.checkpoint_weights, settings.overrides, **settings.sampling)
    for line in [*setup_notes(denoiser), *([note] if note else [])]:
        logger.info(line)
    sample = sample_settings(denoiser.recipe, settings.overrides, **settings.sampling)
    return with_sample(denoiser, sample)


def open_guide(settings: ScoreSettings, device: torch.device) -> Guide | None:
    """Return the weaker model that guides the samples, None without one.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    if settings.guide is None:
        return None
    default = read_defaults(Path(settings.checkpoint)).weights if settings.checkpoint else DEFAULT_WEIGHTS
    weights = settings.guide_weights or settings.checkpoint_weights or default
    return Guide(load_denoiser(settings.guide, weights, device), settings.autoguidance)


def with_default_reference(settings: ScoreSettings, recipe: Recipe | None, model: str | Path | None) -> ScoreSettings:
    """Return the settings with a model's evaluation or training data as the reference, if there is none.

    Args:
        settings: of the score.
        recipe: of the model; None without one.
        model: its path, for messages.

    Raises:
        UsageError: the data are not on this machine.
    """
    if recipe is None or settings.reference is not None or settings.save_stats is not None:
        return settings
    location = recipe.evaluate.reference or recipe.data.path
    if not Path(location).exists():
        raise UsageError(
            f"--ref is missing, and the data of {model}, {location}, are not here; pass a data set, a folder, or "
            "statistics of hdit eval-fid stats"
        )
    logger.info(f"comparing with the data of {model}: {location}")
    return replace(settings, reference=location)


def open_scored(
    settings: ScoreSettings,
    model: Denoiser | None,
    reference: ImageSet | Measurement | None,
    guide: Guide | None = None,
) -> ImageSet:
    """Return the images to score.

    Args:
        settings: what is scored.
        model: the model whose samples are scored; None for existing images.
        reference: the reference, whose class distribution the samples may have.
        guide: a weaker model for autoguidance.

    Raises:
        UsageError: a setting does not apply to the set, or to the reference.
        DataError: the set is empty or damaged.
    """
    if settings.nearest is not None and not (isinstance(reference, ImageSet) and reference.identity):
        raise UsageError(f"--nearest {settings.nearest}: needs images as --ref, not statistics or a stream")
    if model is not None:
        return _samples_of(settings, model, reference, guide)
    assert settings.images is not None  # by check_settings
    if isinstance(settings.images, ImageSet):
        return settings.images
    images = open_images(settings.images, settings.n, settings.seed)
    if settings.nearest is not None and not images.identity:
        raise UsageError(f"--nearest {settings.nearest}: a stream can be read only once; pass a file or folder")
    return replace(images, source=images.source | sampling_record(Path(settings.images)))


def _samples_of(
    settings: ScoreSettings, model: Denoiser, reference: ImageSet | Measurement | None, guide: Guide | None
) -> ImageSet:
    if reference is not None:
        check_classes(model.recipe, reference.source, settings.labels)
    counts = reference.source.get("class_counts") if reference else None
    n = settings.n or model.recipe.evaluate.num_images
    images = generated_images(model, str(settings.checkpoint), n, settings.seed, settings.labels, counts, guide=guide)
    known = {"weights": model.source.weights or "unknown", "model": model.source.to_json()}
    return replace(images, source=images.source | known)  # for people; a hash identifies the weights


def default_extractor(settings: ScoreSettings, model: Denoiser | None) -> str:
    """Return the feature network of a score: the one that was asked for, that of the run's recipe, or Inception."""
    if settings.extractor is not None:
        return settings.extractor
    if model is not None:
        return model.recipe.evaluate.extractor
    images = settings.images
    if isinstance(images, ImageSet):
        name = extractor_of_run(images.source.get("model"))
    else:
        name = recorded_extractor(Path(images)) if images is not None else None
    if name is None:
        return DEFAULT_EXTRACTOR
    where = images.source["path"] if isinstance(images, ImageSet) else images
    logger.info(f"extractor {name}, as in the recipe of the run of {where}; --extractor selects another")
    return name


def check_enough(path: str, count: int | None, extractor: Extractor, allow_small_n: bool) -> None:
    """Refuse a set with no more images than there are features.

    Raises:
        UsageError: the set is too small, and `allow_small_n` is not set.
    """
    if count is not None and count <= extractor.num_features and not allow_small_n:
        raise UsageError(
            f"{path}: {counted(count, 'image')}, too few for the {extractor.num_features} features of "
            f"{extractor.name}; score at least {extractor.num_features + 1}, or pass --allow-small-n for a value that "
            "is comparable only at equal numbers of images"
        )


def check_fit(side: ImageSet | Measurement | None, extractor: Extractor, allow_small_n: bool) -> None:
    """Refuse statistics of another extractor, and sets that are known to be too small for this one.

    Raises:
        UsageError: the set is too small, and `allow_small_n` is not set.
        DataError: the statistics are of another extractor.
    """
    if side is None:
        return
    if isinstance(side, Measurement):
        check_same_extractor(side, extractor)
    count = side.statistics.n if isinstance(side, Measurement) else side.count
    check_enough(side.source["path"], count, extractor, allow_small_n)


def check_same_extractor(saved: Measurement, extractor: Extractor) -> None:
    """Refuse saved statistics of another extractor.

    Raises:
        DataError: the number of features or the extractor's provenance differs.
    """
    fix = "pass the same --extractor, or make the statistics again with hdit eval-fid stats"
    num_features = saved.statistics.num_features
    if num_features != extractor.num_features:
        raise DataError(
            f"{saved.source['path']}: has {num_features} features, --extractor {extractor.name} has "
            f"{extractor.num_features}; {fix}"
        )
    for key, found in saved.extractor.items():  # all that is known; statistics of others say little
        if (expected := extractor.provenance.get(key)) != found:
            raise DataError(
                f"{saved.source['path']}: was made with {key} = {found}, --extractor {extractor.name} has {expected}; "
                f"{fix}"
            )


def remarks_on(scored: Measurement, reference: Measurement, frechet: FrechetDistance) -> list[str]:
    """Return the remarks on the score of these two sets."""
    a, b = scored.statistics, reference.statistics
    fewest = min(n for n in (a.n, b.n) if n is not None)
    few = (
        f"n = {fewest:,} is not above the {a.num_features:,} feature dimensions: biased high, and comparable only at "
        "equal numbers of images"
    )
    clipped = f"negative eigenvalues of {frechet.clipped_mass:.3g} were clipped: the saved statistics may be damaged"
    no_kernel = f"no kernel distance: it needs the features of {LEAST_FOR_KERNEL} images on both sides"
    conditions = {
        few: fewest <= a.num_features,
        "both sets contain exactly the same images": a.fingerprint == b.fingerprint,
        clipped: frechet.clipped_mass > ROUNDING * float(a.covariance.trace() + b.covariance.trace()),
        no_kernel: min(len(a.features), len(b.features)) < LEAST_FOR_KERNEL,
        **_differences(scored, reference),
    }
    return [remark for remark, holds in conditions.items() if holds]


def _differences(scored: Measurement, reference: Measurement) -> dict[str, bool]:
    """Return the known differences between the images of the two sets."""
    if not {"size", "num_grey"} <= reference.source.keys():
        return {}
    sizes = [
        "differ within the set" if side.source["size"] == "mixed" else f"are {side.source['size']}"
        for side in (scored, reference)
    ]
    all_grey = [side.source["num_grey"] == side.statistics.n for side in (scored, reference)]
    return {
        f"image sizes {sizes[0]}; those of the reference {sizes[1]}": sizes[0] != sizes[1],
        "all images of one set are grey, those of the other are not": all_grey[0] != all_grey[1],
    }
