"""Finished images side by side on a sheet, each with its class under it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hdit_core.devices import tune_malloc
from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.samplers.brownian_noise import BrownianNoise
from hdit_core.diffusion.samplers.schedule import sampling_sigmas
from hdit_core.generate.pipeline import START, OnStep, check_classes, check_request, conditioned, run_sampler
from hdit_core.images import to_uint8
from hdit_core.randomness import normal
from hdit_core.recipe.sample import SampleRecipe


@dataclass(frozen=True)
class Generated:
    """A batch of finished images."""

    indices: list[int]
    class_ids: list[int] | None
    images: Float[Tensor, "B C H W"]  # in [-1, 1], but for what the sampler overshoots; on the CPU


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
) -> Iterator[Generated]:
    """Draw images, batch after batch, as they are asked for: nothing is drawn before, and none is kept.

        from hdit_core.checkpoint import load_denoiser
        from hdit_core.generate import sample_settings
        from hdit_core.generate.generate import generate

        denoiser = load_denoiser("runs/digits")
        settings = sample_settings(denoiser.recipe, steps=10, guidance=2.0, batch_size=4)
        for batch in generate(denoiser, range(10), seed=3, settings=settings):
            print(batch.indices, batch.class_ids, tuple(batch.images.shape))

    Args:
        denoiser: as `hdit_core.checkpoint.load_denoiser` gives it, or `open_denoiser`, with a run's own defaults.
        indices: which images of the seed.
        class_ids: one for each index; default, for a network with classes: index modulo the number of classes.
        settings: sampler, steps, guidance and batch size; default those of the denoiser's recipe.
        image_size: rows and columns in pixels; default the recipe's.
        guide: a worse model to lead away from.
        on_step: told of each step of the sampler as it starts.

    Raises:
        UsageError: a class that the network does not have, a size that it cannot take, or a guide unlike it.
        NumericalError: an image stopped being finite.
    """
    settings = settings or denoiser.recipe.sample
    size = image_size or denoiser.recipe.model.image_size
    check_request(denoiser, size, guide)
    check_classes(denoiser.recipe.model.num_classes, indices, class_ids)
    tune_malloc()
    return _Drawing(denoiser, seed, settings, size, guide, on_step).batches(indices, class_ids)


@dataclass(frozen=True)
class _Drawing:
    """What all batches have in common."""

    denoiser: Denoiser
    seed: int
    settings: SampleRecipe
    size: tuple[int, int]
    guide: Guide | None
    on_step: OnStep | None

    @torch.inference_mode()
    def batches(self, indices: Sequence[int], class_ids: Sequence[int] | None) -> Iterator[Generated]:
        num_classes = self.denoiser.recipe.model.num_classes
        for start in range(0, len(indices), self.settings.batch_size):
            here = slice(start, start + self.settings.batch_size)
            chosen = list(indices[here])
            in_turn = [index % num_classes for index in chosen] if num_classes else None
            classes = in_turn if class_ids is None else list(class_ids[here])
            yield Generated(chosen, classes, self._images(chosen, classes).float().cpu())

    def _images(self, indices: list[int], classes: list[int] | None) -> Float[Tensor, "B C H W"]:
        denoiser, settings = self.denoiser, self.settings
        device = next(denoiser.parameters()).device
        sigmas = sampling_sigmas(settings)
        shape = (denoiser.recipe.model.channels, *self.size)
        x = normal(self.seed, START, indices, shape).to(device) * settings.sigma_max
        noise = BrownianNoise(self.seed, indices, shape, sigmas, device=device)
        denoise = conditioned(denoiser, classes, settings, self.guide)
        return run_sampler(denoiser, classes, settings, x, sigmas, noise, self.on_step, denoise)


def collect(batches: Iterable[Generated]) -> tuple[UInt8[np.ndarray, "B H W C"], list[int] | None]:
    """Return all images of some batches as bytes, and their classes; for sheets, which are small."""
    parts, classes = [], []
    for batch in batches:
        parts.append(to_uint8(batch.images))
        classes.extend(batch.class_ids or [])
    return np.concatenate(parts), classes or None
