"""Images from seeds: image i of seed s is a function of (s, i) and the settings, not of the batch it was drawn in."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.devices import autocast, compute_dtype, keep_freed_memory
from hdit_core.diffusion.brownian import BrownianNoise
from hdit_core.diffusion.guidance import guided
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.sampler import sample
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
    on_step: OnStep | None = None,
) -> Iterator[Generated]:
    """Draw images, batch after batch, as they are asked for.

    Args:
        denoiser: as `hdit_core.checkpoint.load_denoiser` gives it.
        indices: which images of the seed.
        class_ids: one for each index; default, for a network with classes: index modulo the number of classes.
        settings: sampler, steps, guidance and batch size; default those of the denoiser's recipe.
        image_size: rows and columns in pixels; default the recipe's.
        on_step: told of each step of the sampler as it starts.

    Raises:
        UsageError: a class that the network does not have, or a size that it cannot take.
        NumericalError: an image stopped being finite.
    """
    settings = settings or denoiser.recipe.sample
    size = image_size or denoiser.recipe.model.image_size
    check_size(denoiser.recipe.model, size)
    check_classes(denoiser.recipe.model.num_classes, indices, class_ids)
    keep_freed_memory()
    return _batches(denoiser, indices, class_ids, seed, settings, size, on_step)


def check_size(model: ModelRecipe, size: tuple[int, int]) -> None:
    """Refuse a size that the network cannot take.

    Raises:
        UsageError: saying why, and which sizes near it would do.
    """
    for _, problem in model.size_problems(size):
        raise UsageError(f"--size {size[0]}x{size[1]}: {problem}")


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


@torch.inference_mode()
def _batches(
    denoiser: Denoiser,
    indices: Sequence[int],
    class_ids: Sequence[int] | None,
    seed: int,
    settings: SampleRecipe,
    size: tuple[int, int],
    on_step: OnStep | None,
) -> Iterator[Generated]:
    num_classes = denoiser.recipe.model.num_classes
    for start in range(0, len(indices), settings.batch_size):
        here = slice(start, start + settings.batch_size)
        chosen = list(indices[here])
        in_turn = [index % num_classes for index in chosen] if num_classes else None
        classes = in_turn if class_ids is None else list(class_ids[here])
        images = _draw(denoiser, chosen, classes, seed, settings, size, on_step)
        yield Generated(chosen, classes, images.float().cpu())


def conditioned(denoiser: Denoiser, classes: Sequence[int] | None, settings: SampleRecipe) -> Denoise:
    """Return what a sampler asks: the denoiser for images of these classes, guided as the settings say.

    Args:
        classes: of each image of the batch; None for networks without classes.
    """
    device = next(denoiser.parameters()).device
    class_ids = None if classes is None else torch.tensor(list(classes), device=device)
    return guided(denoiser, class_ids, settings.guidance, batched=settings.guidance_batched)


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
    device = x.device
    with autocast(device, compute_dtype(denoiser.recipe.train.precision, device)):
        return sample(
            settings.sampler,
            denoise or conditioned(denoiser, classes, settings),
            x,
            sigmas,
            noise,
            eta=settings.eta,
            solver=settings.solver,
            on_step=on_step,
        )


def _draw(
    denoiser: Denoiser,
    indices: list[int],
    classes: list[int] | None,
    seed: int,
    settings: SampleRecipe,
    size: tuple[int, int],
    on_step: OnStep | None,
) -> Float[Tensor, "B C H W"]:
    device = next(denoiser.parameters()).device
    sigmas = sampling_sigmas(settings)
    shape = (denoiser.recipe.model.channels, *size)
    x = normal(seed, START, indices, shape).to(device) * settings.sigma_max
    noise = BrownianNoise(seed, indices, shape, sigmas, device=device)
    return run_sampler(denoiser, classes, settings, x, sigmas, noise, on_step)
