"""Samples of a checkpoint as a set of images to score: generated on demand and not stored."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from hdit_core.data.format.manifest import MANIFEST, read_manifest
from hdit_core.data.image_sets.image_set import ImageSet, ReadImage, class_map_sha256
from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.feature_batch import by_chunk
from hdit_core.generate.generate import generate
from hdit_core.generate.pipeline import ConditionSource, Samples
from hdit_core.generate.provenance import guide_provenance, weights_sha256
from hdit_core.images import to_uint8
from hdit_core.randomness import uniform
from hdit_core.recipe.run import Recipe

Labels = Literal["balanced", "uniform", "data"]

logger = logging.getLogger("hdit")


def generated_images(
    denoiser: Denoiser,
    path: str,
    n: int,
    seed: int,
    labels: Labels = "balanced",
    class_counts: Sequence[int] | None = None,
    weights: str | None = None,
    conditions: ConditionSource | None = None,
    guide: Guide | None = None,
) -> ImageSet:
    """Return images 0 to n - 1 of a seed, rounded to bytes as if they had been saved.

    Args:
        denoiser: the model; its recipe has the sampling settings.
        path, n: where it was loaded from, for the provenance; and the number of images.
        seed: of the initial noise, the sampler's noise and the labels.
        labels: "balanced" (cycled), "uniform" (random) or "data" (the class distribution of the reference).
        class_counts: images per class of the reference, for "data".
        weights: identifies the weights; default: their hash, which needs the unsharded tensors.
        conditions: of each image, for a network that takes condition images or vectors.
        guide: a weaker model for autoguidance.

    Raises:
        UsageError: the reference's class counts are unknown, or do not match the model.
    """
    num_classes = denoiser.recipe.model.num_classes
    _check_classes(num_classes, labels, class_counts)
    source = _source(denoiser, path, weights or weights_sha256(denoiser), guide)
    source |= {"seed": seed, "labels": labels if num_classes else "none"}

    def read(indices: Sequence[int]) -> Iterator[ReadImage]:
        for chunk in by_chunk(indices):
            classes = class_ids(chunk, num_classes, seed, labels, class_counts) if num_classes else None
            for batch in generate(denoiser, chunk, seed=seed, class_ids=classes, guide=guide, conditions=conditions):
                yield from (partial(_identity, image_u8) for image_u8 in to_uint8(batch.images))

    return ImageSet(source, n, read, _identity_of(source, denoiser.recipe, class_counts))


def _identity_of(source: dict[str, Any], recipe: Recipe, class_counts: Sequence[int] | None) -> str:
    """Return a hash of what determines the images, except their number and the path of the weights.

    A larger set of the same seed begins with the same images. The weights do not tell the size of the images, nor the
    kind of prediction.
    """
    model = recipe.model.model_dump(mode="json", exclude={"attention_backend"})
    identity = repr((source | {"path": None}, class_counts, model, recipe.diffusion.model_dump(mode="json")))
    return hashlib.sha256(identity.encode()).hexdigest()


def samples_set(samples: Samples) -> ImageSet:
    """Return samples in memory as a set of images to score, rounded to bytes as if they had been saved."""
    images_u8 = samples.to_uint8()

    def read(indices: Sequence[int]) -> Iterator[ReadImage]:
        return (partial(_identity, images_u8[index]) for index in indices if index < len(images_u8))

    model = {"model": known} if (known := samples.source.to_json()) else {}
    source = {"kind": "samples in memory", "path": f"{len(samples)} samples in memory", **model}
    return ImageSet(source, len(samples), read, hashlib.sha256(images_u8.tobytes()).hexdigest())


def _source(denoiser: Denoiser, path: str, weights: str, guide: Guide | None) -> dict[str, Any]:
    sampling = denoiser.recipe.sample.model_dump(mode="json")
    known = {"guide": guide_provenance(guide)} if guide is not None else {}
    return {"kind": "checkpoint", "path": path, "weights_sha256": weights, "sampling": sampling, **known}


def class_ids(
    indices: Sequence[int], num_classes: int, seed: int, labels: Labels, class_counts: Sequence[int] | None = None
) -> list[int]:
    """Return the class of each image, a function of the seed and its index alone."""
    if labels == "balanced":
        return [index % num_classes for index in indices]
    weights = np.asarray(class_counts if labels == "data" else [1] * num_classes, np.float64)
    edges = np.cumsum(weights / weights.sum())[:-1]
    return [int(class_id) for class_id in np.searchsorted(edges, uniform(seed, "class", indices), side="right")]


def _check_classes(num_classes: int, labels: Labels, class_counts: Sequence[int] | None) -> None:
    if labels != "data" or not num_classes:
        return
    if not class_counts:
        raise UsageError("--labels data: the reference has no class counts; pass a prepared data set as --ref")
    if len(class_counts) != num_classes:
        raise UsageError(
            f"--labels data: the reference has {len(class_counts)} classes, the model {num_classes}; "
            "pass the model's training data as --ref"
        )


def _identity(image_u8: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
    return image_u8


def check_classes(recipe: Recipe, source: dict[str, Any], labels: Labels) -> None:
    """Compare the classes of a reference with those of a model's training data, and log differences.

    Args:
        recipe: the model's.
        source: the reference's part of the provenance.
        labels: how samples get their classes; "data" needs the classes of the reference.

    Raises:
        UsageError: `labels` is "data", and the reference has other classes, or does not say which.
    """
    counts, reference_map = source.get("class_counts"), source.get("class_map")
    _check_classes(recipe.model.num_classes, labels, counts)
    if not recipe.model.num_classes or not counts:
        return
    where = source["path"]
    if len(counts) != recipe.model.num_classes:
        logger.warning(f"{where} has {len(counts)} classes, the model {recipe.model.num_classes}; is it the right set?")
    trained_map = _trained_map(recipe)
    if labels == "data" and trained_map is None:
        logger.warning(f"{where}: cannot check its classes against the training data, {recipe.data.path} is not here")
    if None in (trained_map, reference_map) or trained_map == reference_map:
        return
    problem = f"{where}: its classes differ from those of the training data, {recipe.data.path}"
    if labels == "data":
        raise UsageError(f"--labels data: {problem}; pass that as --ref, or a set prepared with --classes of it")
    logger.warning(problem)


def _trained_map(recipe: Recipe) -> str | None:
    folder = Path(recipe.data.path)
    if not (folder / MANIFEST).is_file():
        return None
    try:
        names = read_manifest(folder).contents.classes
    except DataError:
        return None
    return class_map_sha256(names) if names else None
