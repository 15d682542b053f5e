"""A checkpoint as a set of images to score: drawn as they are asked for, and kept nowhere."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from hdit_core.data.format.manifest import MANIFEST, read_manifest
from hdit_core.data.image_sets.image_set import ImageSet, ReadImage, class_map_sha256
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.extractors.extractor import Say
from hdit_core.evaluate.feature_batch import by_chunk
from hdit_core.generate.generate import generate
from hdit_core.generate.provenance import weights_sha256
from hdit_core.images import to_uint8
from hdit_core.randomness import uniform
from hdit_core.recipe.run import Recipe

Labels = Literal["balanced", "uniform", "data"]


def generated_images(
    denoiser: Denoiser,
    path: str,
    n: int,
    seed: int,
    labels: Labels = "balanced",
    class_counts: Sequence[int] | None = None,
    weights: str | None = None,
) -> ImageSet:
    """Return images 0 to n - 1 of a seed, rounded to bytes as if they had been saved.

    Args:
        denoiser: what draws them, by its recipe's sampling settings.
        path: where it was loaded from, for the passport.
        n: how many.
        seed: of the starts, the sampler's noise and the drawing of labels.
        labels: which classes: each in turn, each with equal chance, or as often as in the data.
        class_counts: of the data, for "data".
        weights: what identifies the weights; default their hash, which has to be at hand as a whole.

    Raises:
        UsageError: the data's classes are not known, or not the network's.
    """
    num_classes = denoiser.recipe.model.num_classes
    _check_classes(num_classes, labels, class_counts)
    drawn_with = weights or weights_sha256(denoiser)
    source = _source(denoiser, path, drawn_with) | {"seed": seed, "labels": labels if num_classes else "none"}

    def read(places: Sequence[int]) -> Iterator[ReadImage]:
        for piece in by_chunk(places):
            classes = class_ids(piece, num_classes, seed, labels, class_counts) if num_classes else None
            for batch in generate(denoiser, piece, seed=seed, class_ids=classes):
                yield from (partial(_given, image_u8) for image_u8 in to_uint8(batch.images))

    # neither n nor where the weights lie is part of it: a larger set of the same seed begins with the same images
    identity = repr((source | {"path": None}, class_counts))
    return ImageSet(source, n, read, hashlib.sha256(identity.encode()).hexdigest())


def _source(denoiser: Denoiser, path: str, weights: str) -> dict[str, Any]:
    sampling = denoiser.recipe.sample.model_dump(mode="json")
    return {"kind": "checkpoint", "path": path, "weights_sha256": weights, "sampling": sampling}


def class_ids(
    indices: Sequence[int], num_classes: int, seed: int, labels: Labels, class_counts: Sequence[int] | None = None
) -> list[int]:
    """Return the class of each image: a function of its index alone, so that any part of a set has the same."""
    if labels == "balanced":
        return [index % num_classes for index in indices]
    weights = np.asarray(class_counts if labels == "data" else [1] * num_classes, np.float64)
    edges = np.cumsum(weights / weights.sum())[:-1]
    return [int(place) for place in np.searchsorted(edges, uniform(seed, "class", indices), side="right")]


def _check_classes(num_classes: int, labels: Labels, class_counts: Sequence[int] | None) -> None:
    if labels != "data" or not num_classes:
        return
    if not class_counts:
        raise UsageError("--labels data: the reference does not say how often each class is; give a data set as --ref")
    if len(class_counts) != num_classes:
        raise UsageError(
            f"--labels data: the reference has {len(class_counts)} classes, the network {num_classes}; "
            "give the data set that it was trained on as --ref"
        )


def _given(image_u8: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
    return image_u8


def check_classes(recipe: Recipe, source: dict[str, Any], labels: Labels, say: Say) -> None:
    """Compare the classes of a reference with those that a network was trained on.

    Args:
        recipe: the network's.
        source: the reference's part of the passport.
        labels: how the network's images get their classes; drawn as in the reference, they have to be its own.
        say: told of what differs, or cannot be checked, and may.

    Raises:
        UsageError: the images are to have the reference's classes, and those are others.
    """
    counts, theirs = source.get("class_counts"), source.get("class_map")
    if not recipe.model.num_classes or not counts:
        return
    where = source["path"]
    if len(counts) != recipe.model.num_classes and labels != "data":  # with "data" it is refused where they are drawn
        say(f"{where}: has {len(counts)} classes, the network {recipe.model.num_classes}: they are not the same images")
    ours = _trained_map(recipe)
    if labels == "data" and ours is None:
        say(f"whether the classes of {where} are the network's is taken on trust: {recipe.data.path} is not here")
    if None in (ours, theirs) or ours == theirs:
        return
    problem = f"{where}: its classes are not those of {recipe.data.path}, on which the network was trained"
    if labels == "data":
        raise UsageError(f"--labels data: {problem}; give that, or one prepared with its --classes")
    say(problem)


def _trained_map(recipe: Recipe) -> str | None:
    folder = Path(recipe.data.path)
    if not (folder / MANIFEST).is_file():
        return None
    try:
        names = read_manifest(folder).contents.classes
    except DataError:
        return None
    return class_map_sha256(names) if names else None
