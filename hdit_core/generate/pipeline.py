"""The sampling pipeline: a denoiser with its settings, seed and image size, which generates images batch by batch."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from PIL import Image
from torch import Tensor

from hdit_core.devices import autocast, compute_dtype, disable_tf32, make_mkl_reproducible
from hdit_core.diffusion.guidance import Guide, check_guide, guided
from hdit_core.diffusion.precondition import Denoiser, ModelSource
from hdit_core.diffusion.prior import seen_condition, start_of_flow
from hdit_core.diffusion.samplers.brownian_noise import BrownianNoise
from hdit_core.diffusion.samplers.colored_noise import NoiseColor
from hdit_core.diffusion.samplers.registry import sample_by
from hdit_core.diffusion.samplers.sampler_state import Denoise, NoiseSource, SamplerStep
from hdit_core.diffusion.samplers.schedule import sampling_sigmas
from hdit_core.errors import UsageError
from hdit_core.images import to_pil, to_uint8
from hdit_core.randomness import check_seed, normal
from hdit_core.recipe.model import ModelRecipe
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.sample import SampleRecipe

OnStep = Callable[[SamplerStep], None]
GenerateBatch = Callable[[list[int], list[int] | None], Float[Tensor, "B C H W"]]
"""(indices, their classes, None if the network has none) -> finished images in [-1, 1]."""


@dataclass(frozen=True)
class ConditionInputs:
    """The conditioning of a batch in addition to classes, on the CPU.

    Attributes:
        condition: condition images in [-1, 1]; None if the network takes none.
        vector: conditioning vectors; None if the network takes none.
    """

    condition: Float[Tensor, "B K H W"] | None = None
    vector: Float[Tensor, "B E"] | None = None


ConditionSource = Callable[[list[int]], ConditionInputs]
"""Image indices -> their conditions; those of an image depend on its index alone."""

START = "start"  # purpose of the random stream of an image's initial noise
MOST_VALUES = 10**12  # of an image: memory ends long before, and numbers of bytes after
UNITS = {"condition": "channels", "vector": "numbers"}


@dataclass(frozen=True, repr=False)
class Samples:
    """Finished images with their indices and classes."""

    indices: list[int]
    class_ids: list[int] | None
    images: Float[Tensor, "B C H W"]  # in [-1, 1] up to the sampler's overshoot; on the CPU
    source: ModelSource = field(default_factory=ModelSource)  # of the model

    def to_uint8(self) -> UInt8[np.ndarray, "B H W C"]:
        """Return the images as bytes; values outside [-1, 1] are clipped."""
        return to_uint8(self.images)

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"<Samples: {len(self)} images of {'x'.join(map(str, self.images.shape[1:]))}>"

    def to_pil(self) -> list[Image.Image]:
        """Return the images as Pillow images."""
        return [to_pil(image_u8) for image_u8 in self.to_uint8()]


def check_size(model: ModelRecipe, size: tuple[int, int]) -> None:
    """Refuse an image size that the network cannot process.

    Raises:
        UsageError: with the reason and the nearest valid sizes.
    """
    trained = "x".join(map(str, model.image_size))
    if math.prod(size) * model.channels > MOST_VALUES:
        raise UsageError(
            f"--size {size[0]}x{size[1]}: an image of {model.channels} channels has more than 10^12 values"
        )
    for key, problem in model.size_problems(size):
        of_level = f"model.{key} = {problem}".partition(";")[0] + f"; use a size closer to the training size, {trained}"
        raise UsageError(f"--size {size[0]}x{size[1]}: {problem if key == 'image_size' else of_level}")


def check_request(denoiser: Denoiser, size: tuple[int, int], guide: Guide | None) -> None:
    """Refuse an image size that the network or its guide cannot process, and a guide that does not match the network.

    Raises:
        UsageError: with the reason.
    """
    check_size(denoiser.recipe.model, size)
    if guide is not None:
        check_guide(denoiser, guide.denoiser)
        check_size(guide.denoiser.recipe.model, size)


def check_class(num_classes: int, class_id: int | None) -> None:
    """Refuse a class that the network does not have; None, the network's default, is always valid.

    Raises:
        UsageError: with the class and the valid range.
    """
    if class_id is None:
        return
    if not num_classes:
        raise UsageError("a class was given, but the network was trained without classes")
    if not 0 <= class_id <= num_classes:
        raise UsageError(
            f"class {class_id}: the network has the classes 0 to {num_classes - 1} ({num_classes} means no class)"
        )


def check_conditions(recipe: Recipe, size: tuple[int, int], inputs: ConditionInputs, count: int) -> None:
    """Refuse conditions that do not match the network, for `count` images of a size.

    Raises:
        UsageError: a condition is missing, superfluous, not finite or of a wrong shape.
    """
    wanted = (
        ("condition", "condition images", inputs.condition, (recipe.condition_image_channels, *size)),
        ("vector", "vectors", inputs.vector, (recipe.model.mapping_cond_dim,)),
    )
    for name, plural, found, (length, *rest) in wanted:
        if found is None and length:
            raise UsageError(f"the network takes {plural} of {length} {UNITS[name]}, and none are given; see --{name}")
        if found is not None and not length:
            raise UsageError(f"{plural} are given, but the network was trained without any; leave out --{name}")
        if found is not None and tuple(found.shape) != (count, length, *rest):
            raise UsageError(f"{plural} of shape {list(found.shape)}; this network takes {[count, length, *rest]}")
        if found is not None and not found.isfinite().all():
            index = (~found.isfinite().flatten(1).all(1)).nonzero()[0].item()
            raise UsageError(f"{plural}: number {index} of the batch has NaN or infinite values; expected finite ones")


@dataclass(frozen=True)
class SamplingPipeline:
    """A denoiser that generates images of one size from one seed.

    Attributes:
        image_size: height and width in pixels.
        guide: a weaker model for autoguidance.
        conditions: of each image; None for a network that takes neither condition images nor vectors.
        on_step: called at the start of each sampler step, of edits too.
    """

    denoiser: Denoiser
    settings: SampleRecipe
    seed: int
    image_size: tuple[int, int]
    guide: Guide | None = None
    conditions: ConditionSource | None = None
    on_step: OnStep | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_request(self.denoiser, self.image_size, self.guide)
        _ = self.sigmas  # refuses a schedule before any work
        if self.conditions is None:
            check_conditions(self.denoiser.recipe, self.image_size, ConditionInputs(), 0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return (self.denoiser.recipe.model.channels, *self.image_size)

    @property
    def num_classes(self) -> int:
        """Number of classes of the network, 0 without classes."""
        return self.denoiser.recipe.model.num_classes

    @cached_property
    def device(self) -> torch.device:
        """The denoiser's device."""
        return next(self.denoiser.parameters()).device

    @cached_property
    def sigmas(self) -> Float64[Tensor, "levels"]:
        """The full noise schedule, from sigma_max down to 0."""
        return sampling_sigmas(self.settings)

    def default_class(self, index: int) -> int | None:
        """Return the default class of image `index`: index modulo num_classes, None without classes."""
        return index % self.num_classes if self.num_classes else None

    def noise(self, indices: Sequence[int], purpose: str = START, part: int = 0) -> Float[Tensor, "B C H W"]:
        """Return standard normal noise of each image for a purpose; by default the initial noise of `hdit sample`."""
        return normal(self.seed, purpose, indices, self.shape, part).to(self.device)

    def brownian_noise(self, indices: Sequence[int], seed: int | None = None) -> BrownianNoise:
        """Return the noise source of each image along the schedule, by default of the pipeline's seed."""
        seed = self.seed if seed is None else seed
        color = NoiseColor(self.settings.noise_color, self.denoiser.sigma_data)
        return BrownianNoise(seed, indices, self.shape, self.sigmas, color=color, device=self.device)

    def inputs(self, indices: list[int]) -> ConditionInputs:
        """Return the conditions of some images, checked, on the device.

        Raises:
            UsageError: they are not those that the network takes.
        """
        inputs = ConditionInputs() if self.conditions is None else self.conditions(indices)
        check_conditions(self.denoiser.recipe, self.image_size, inputs, len(indices))
        moved = (None if each is None else each.to(self.device) for each in (inputs.condition, inputs.vector))
        return ConditionInputs(*moved)

    def conditioned(self, classes: Sequence[int] | None, inputs: ConditionInputs | None = None) -> Denoise:
        """Return the denoising function for images of these classes and conditions, with the settings' guidance."""
        settings, inputs = self.settings, inputs or ConditionInputs()
        return guided(
            self.denoiser,
            None if classes is None else torch.tensor(list(classes), device=self.device),
            settings.guidance,
            batched=settings.guidance_batched,
            guide=self.guide,
            interval=settings.guidance_interval,
            rescale=settings.guidance_rescale,
            mapping_cond=inputs.vector,
            condition=seen_condition(self.denoiser.recipe, inputs.condition),
            condition_guidance=settings.condition_guidance,
            vector_guidance=settings.vector_guidance,
        )

    def start(self, noise: Float[Tensor, "B C H W"], inputs: ConditionInputs) -> Float[Tensor, "B C H W"]:
        """Return the images at sigma_max from which sampling starts: noise, or the condition images with noise."""
        return start_of_flow(self.denoiser.recipe.diffusion, noise, inputs.condition) * self.settings.sigma_max

    def sample(
        self,
        x: Float[Tensor, "B C H W"],
        sigmas: Float64[Tensor, "levels"],
        noise: NoiseSource,
        denoise: Denoise,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """Run the sampler over some levels of the schedule, in the precision of the denoiser's recipe.

        Args:
            x: the initial images, with noise of level sigmas[0].
            sigmas: decreasing noise levels, the whole schedule or a part of it; a single level returns x unchanged.
            noise: noise source for stochastic samplers.
            denoise: the denoising function, see `conditioned`.
            on_step: called at the start of each sampler step; default: the pipeline's.
        """
        if len(sigmas) < 2:
            return x
        make_mkl_reproducible()
        disable_tf32()
        with autocast(self.device, compute_dtype(self.denoiser.recipe.train.precision, self.device)):
            return sample_by(self.settings, denoise, x, sigmas, noise, on_step or self.on_step)

    def generate_batch(
        self, indices: list[int], classes: list[int] | None, on_step: OnStep | None = None
    ) -> Float[Tensor, "B C H W"]:
        """Generate one batch of images from noise, under the conditions of the pipeline."""
        inputs = self.inputs(indices)
        x, denoise = self.start(self.noise(indices), inputs), self.conditioned(classes, inputs)
        return self.sample(x, self.sigmas, self.brownian_noise(indices), denoise, on_step)

    @torch.inference_mode()
    def generate(
        self, indices: Sequence[int], class_ids: Iterable[int | None], generate_batch: GenerateBatch | None = None
    ) -> Iterator[Samples]:
        """Yield batches of images, each generated on demand.

        Args:
            indices: image indices.
            class_ids: one for each index, read batch by batch; None for images without a class.
            generate_batch: generates a batch; default: the method of that name.
        """
        generate_batch, remaining = generate_batch or self.generate_batch, iter(class_ids)
        for start in range(0, len(indices), self.settings.batch_size):
            batch = list(indices[start : start + self.settings.batch_size])
            classes = [class_id for class_id in islice(remaining, len(batch)) if class_id is not None] or None
            yield Samples(batch, classes, generate_batch(batch, classes).float().cpu(), self.denoiser.source)
