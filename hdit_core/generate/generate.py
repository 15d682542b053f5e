"""Images from seeds: image i of seed s is a function of (s, i) and the settings, not of the batch it was drawn in."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.devices import autocast, compute_dtype, keep_freed_memory, same_bits_on_any_threads
from hdit_core.diffusion.brownian import BrownianNoise
from hdit_core.diffusion.guidance import Guide, check_guide, guided
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.sampler import sample_by
from hdit_core.diffusion.schedule import sampling_sigmas
from hdit_core.diffusion.walk import Denoise, NoiseSource, Step
from hdit_core.errors import UsageError
from hdit_core.randomness import normal
from hdit_core.recipe.model import ModelRecipe
from hdit_core.recipe.sample import SampleRecipe

OnStep = Callable[[Step], None]
START = "start"  # the purpose of the noise that an image begins as


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
        from hdit_core.generate import generate, sample_settings

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
    keep_freed_memory()
    return _Drawing(denoiser, seed, settings, size, guide, on_step).batches(indices, class_ids)


def check_size(model: ModelRecipe, size: tuple[int, int]) -> None:
    """Refuse a size that the network cannot take.

    Raises:
        UsageError: saying why, and which sizes near it would do.
    """
    trained = "x".join(map(str, model.image_size))
    for key, problem in model.size_problems(size):
        of_level = f"model.{key} = {problem}".partition(";")[0] + f"; use a size nearer to its own, {trained}"
        raise UsageError(f"--size {size[0]}x{size[1]}: {problem if key == 'image_size' else of_level}")


def check_request(denoiser: Denoiser, size: tuple[int, int], guide: Guide | None) -> None:
    """Refuse a size that the network or its guide cannot take, and a guide that cannot be asked the same.

    Raises:
        UsageError: saying why.
    """
    check_size(denoiser.recipe.model, size)
    if guide is not None:
        check_guide(denoiser, guide.denoiser)
        check_size(guide.denoiser.recipe.model, size)


def check_classes(num_classes: int, indices: Sequence[int], class_ids: Sequence[int] | None) -> None:
    """Refuse classes that the network does not have; None is every network's default.

    Raises:
        UsageError: naming the class and those that there are.
    """
    if class_ids is None:
        return
    if not num_classes:
        raise UsageError("classes were asked for, but the network was trained without any")
    for class_id in class_ids:
        if not 0 <= class_id <= num_classes:
            raise UsageError(
                f"class {class_id}: the network has the classes 0 to {num_classes - 1} ({num_classes} means none)"
            )
    if len(class_ids) != len(indices):
        raise ValueError(f"{len(class_ids)} classes for {len(indices)} images")


def conditioned(
    denoiser: Denoiser, classes: Sequence[int] | None, settings: SampleRecipe, guide: Guide | None = None
) -> Denoise:
    """Return what a sampler asks: the denoiser for images of these classes, guided as the settings say.

    Args:
        classes: of each image of the batch; None for networks without classes.
        guide: a worse model to lead away from.
    """
    device = next(denoiser.parameters()).device
    return guided(
        denoiser,
        None if classes is None else torch.tensor(list(classes), device=device),
        settings.guidance,
        batched=settings.guidance_batched,
        guide=guide,
        interval=settings.guidance_interval,
        rescale=settings.guidance_rescale,
    )


def run_sampler(
    denoiser: Denoiser,
    classes: Sequence[int] | None,
    settings: SampleRecipe,
    x: Float[Tensor, "B C H W"],
    sigmas: Float64[Tensor, "levels"],
    noise: NoiseSource,
    on_step: OnStep | None = None,
    denoise: Denoise | None = None,
) -> Float[Tensor, "B C H W"]:
    """Walk a batch down noise levels with the sampler of the settings, in the precision of the denoiser's recipe.

    Args:
        x: the start, images with noise of level sigmas[0].
        sigmas: falling; all of the schedule or a part of it.
        noise: for stochastic samplers.
        denoise: what is asked instead of `conditioned`.
    """
    same_bits_on_any_threads()
    device = x.device
    with autocast(device, compute_dtype(denoiser.recipe.train.precision, device)):
        return sample_by(settings, denoise or conditioned(denoiser, classes, settings), x, sigmas, noise, on_step)


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
