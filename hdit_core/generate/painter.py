"""What every way of drawing is handed: the denoiser with its settings, and the noise that belongs to each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from hdit_core.diffusion.brownian import BrownianNoise
from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.schedule import sampling_sigmas
from hdit_core.diffusion.walk import Denoise, NoiseSource
from hdit_core.generate.generate import START, check_request, conditioned, run_sampler
from hdit_core.images import from_uint8
from hdit_core.randomness import normal
from hdit_core.recipe.sample import SampleRecipe


@dataclass(frozen=True)
class Painter:
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

    def motion(self, numbers: Sequence[int], seed: int | None = None) -> BrownianNoise:
        """Return the noise of each image on its way down the schedule, of another seed where one is given."""
        seed = self.seed if seed is None else seed
        return BrownianNoise(seed, numbers, self.shape, self.sigmas, device=self.device)

    def conditioned(self, classes: Sequence[int] | None) -> Denoise:
        """Return what a sampler asks for images of these classes, guided as the settings say."""
        return conditioned(self.denoiser, classes, self.settings, self.guide)

    def walk(
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
