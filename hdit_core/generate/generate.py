"""`generate`: from a denoiser and image indices to batches of images."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import UInt8

from hdit_core.devices import tune_malloc
from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import UsageError
from hdit_core.generate.pipeline import ConditionSource, OnStep, Samples, SamplingPipeline, check_class
from hdit_core.images import to_uint8
from hdit_core.recipe.sample import SampleRecipe


def generate(
    denoiser: Denoiser,
    indices: Sequence[int],
    *,
    seed: int = 0,
    class_ids: Sequence[int] | None = None,
    settings: SampleRecipe | None = None,
    image_size: tuple[int, int] | None = None,
    guide: Guide | None = None,
    on_step: OnStep | None = None,
    conditions: ConditionSource | None = None,
) -> Iterator[Samples]:
    """Generate images lazily, batch by batch.

        from hdit_core.checkpoint import load_denoiser
        from hdit_core.generate import generate, sample_settings
        denoiser = load_denoiser("runs/digits")
        settings = sample_settings(denoiser.recipe, steps=10, guidance=2.0, batch_size=4)
        for batch in generate(denoiser, range(10), seed=3, settings=settings):
            print(batch.indices, batch.class_ids, tuple(batch.images.shape))

    Args:
        denoiser: from `hdit_core.checkpoint.load_denoiser`, or from `open_denoiser`, which applies a run's defaults.
        indices: which images of the seed.
        class_ids: one for each index; default for a network with classes: index modulo the number of classes.
        settings: sampler, steps, guidance and batch size; default: those of the denoiser's recipe.
        image_size: height and width in pixels; default: the recipe's.
        guide: a weaker model for autoguidance.
        on_step: called at the start of each sampler step.
        conditions: condition images and vectors of each index, for a network that takes them.

    Raises:
        UsageError: the classes, size, guide or conditions do not fit the images or the network.
        NumericalError: an image became NaN or infinite.
    """
    size, settings = image_size or denoiser.recipe.model.image_size, settings or denoiser.recipe.sample
    pipeline = SamplingPipeline(denoiser, settings, seed, size, guide, conditions)
    tune_malloc()
    generate_batch = partial(pipeline.generate_batch, on_step=on_step)
    return pipeline.generate(indices, _checked(pipeline, indices, class_ids), generate_batch)


def _checked(
    pipeline: SamplingPipeline, indices: Sequence[int], class_ids: Sequence[int] | None
) -> Iterable[int | None]:
    """Return the class of each image: those given, or the default ones, computed lazily."""
    if class_ids is None:
        return map(pipeline.default_class, indices)
    for class_id in class_ids:
        check_class(pipeline.num_classes, class_id)
    if len(class_ids) != len(indices):
        raise UsageError(f"class_ids: {len(class_ids)} classes for {len(indices)} images; expected one for each")
    return class_ids


def concatenate(batches: Iterable[Samples]) -> Samples:
    """Return all images of some batches as one; at least one batch."""
    parts = list(batches)
    class_ids = [class_id for part in parts for class_id in part.class_ids or ()]
    return Samples(
        [index for part in parts for index in part.indices],
        class_ids or None,
        torch.cat([part.images for part in parts]),
        parts[0].source,
    )


def collect(batches: Iterable[Samples]) -> tuple[UInt8[np.ndarray, "B H W C"], list[int] | None]:
    """Return all images of some batches as bytes, and their classes; for contact sheets, which are small."""
    parts, classes = [], []
    for batch in batches:
        parts.append(to_uint8(batch.images))
        classes.extend(batch.class_ids or [])
    return np.concatenate(parts), classes or None
