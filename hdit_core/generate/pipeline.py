"""What every way of drawing is handed: the denoiser with its settings, and the noise that belongs to each image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from hdit_core.devices import autocast, compute_dtype, make_mkl_reproducible
from hdit_core.diffusion.guidance import Guide, check_guide, guided
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.samplers.brownian_noise import BrownianNoise
from hdit_core.diffusion.samplers.sampler import sample_by
from hdit_core.diffusion.samplers.sampler_state import Denoise, NoiseSource, SamplerStep
from hdit_core.diffusion.samplers.schedule import sampling_sigmas
from hdit_core.errors import UsageError
from hdit_core.images import from_uint8
from hdit_core.randomness import normal
from hdit_core.recipe.model import ModelRecipe
from hdit_core.recipe.sample import SampleRecipe

OnStep = Callable[[SamplerStep], None]
START = "start"  # the purpose of the noise that an image begins as


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
    make_mkl_reproducible()
    device = x.device
    with autocast(device, compute_dtype(denoiser.recipe.train.precision, device)):
        return sample_by(settings, denoise or conditioned(denoiser, classes, settings), x, sigmas, noise, on_step)


@dataclass(frozen=True)
class SamplingPipeline:
    """A denoiser that draws images of one size from one seed.

    Attributes:
        image_size: rows and columns in pixels.
        guide: a worse model to lead away from.
    """

    denoiser: Denoiser
    settings: SampleRecipe
    seed: int
    image_size: tuple[int, int]
    guide: Guide | None = None

    def __post_init__(self) -> None:
        check_request(self.denoiser, self.image_size, self.guide)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return (self.denoiser.recipe.model.channels, *self.image_size)

    @cached_property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.denoiser.parameters()).device

    @cached_property
    def sigmas(self) -> Float64[Tensor, "levels"]:
        """The whole schedule, from sigma_max to 0."""
        return sampling_sigmas(self.settings)

    def image(self, image_u8: UInt8[np.ndarray, "H W C"]) -> Float[Tensor, "1 C H W"]:
        """Return bytes as one image in [-1, 1] on the device."""
        return from_uint8(image_u8[None].copy()).to(self.device)

    def noise(self, numbers: Sequence[int], purpose: str = START, part: int = 0) -> Float[Tensor, "B C H W"]:
        """Return the normal noise of each image for a purpose; by default what `hdit sample` begins with."""
        return normal(self.seed, purpose, numbers, self.shape, part).to(self.device)

    def brownian_noise(self, numbers: Sequence[int], seed: int | None = None) -> BrownianNoise:
        """Return the noise of each image on its way down the schedule, of another seed where one is given."""
        seed = self.seed if seed is None else seed
        return BrownianNoise(seed, numbers, self.shape, self.sigmas, device=self.device)

    def conditioned(self, classes: Sequence[int] | None) -> Denoise:
        """Return what a sampler asks for images of these classes, guided as the settings say."""
        return conditioned(self.denoiser, classes, self.settings, self.guide)

    def sample(
        self,
        x: Float[Tensor, "B C H W"],
        sigmas: Float64[Tensor, "levels"],
        noise: NoiseSource,
        denoise: Denoise,
    ) -> Float[Tensor, "B C H W"]:
        """Walk images down some levels of the schedule; one level alone is no way, and changes nothing."""
        if len(sigmas) < 2:
            return x
        return run_sampler(self.denoiser, None, self.settings, x, sigmas, noise, denoise=denoise)


Draw = Callable[[list[int], list[int] | None], Float[Tensor, "B C H W"]]
"""(numbers, their classes, None where the network has none) -> finished images in [-1, 1]."""
