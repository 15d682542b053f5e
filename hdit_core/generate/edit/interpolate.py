"""Interpolation between two images in noise space: each endpoint is an image index, or a file with an image's noise."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.diffusion.samplers.registry import sample_by
from hdit_core.diffusion.samplers.sampler_state import Denoise, NoiseSource
from hdit_core.errors import UsageError
from hdit_core.generate.edit.invert import read_noise
from hdit_core.generate.index_ranges import LARGEST_INDEX
from hdit_core.generate.pipeline import GenerateBatch, SamplingPipeline, check_class
from hdit_core.recipe.sample import SampleRecipe


@dataclass(frozen=True)
class Endpoint:
    """One end of an interpolation.

    Attributes:
        start: its standard normal initial noise.
        index: of the image whose noise stochastic samplers add; None for noise from a file, which needs none.
        class_id: None for networks without classes.
    """

    start: Float[Tensor, "C H W"]
    index: int | None
    class_id: int | None

    @property
    def identity(self) -> dict[str, object]:
        """The values that determine the endpoint's pixels besides the seed."""
        start = hashlib.sha256(self.start.cpu().numpy().tobytes()).hexdigest()
        return {"noise_sha256": start, "number": self.index, "class": self.class_id}


def parse_endpoint(text: str, pipeline: SamplingPipeline, class_id: int | None = None) -> Endpoint:
    """Return the endpoint that a command-line argument names.

    Args:
        text: digits are an image index of the pipeline's seed, anything else is a file of `write_noise`.
        class_id: of the image; None: the class that `hdit sample` gives the index, or that the file records.

    Raises:
        UsageError: the network has no such class, or the noise in the file belongs to another model.
        CheckpointError: there is no such file, or it holds no noise.
    """
    check_class(pipeline.num_classes, class_id)
    if not (text.isascii() and text.isdigit()):
        stored = read_noise(Path(text), pipeline)
        return Endpoint(stored.noise, None, stored.class_id if class_id is None else class_id)
    if len(text) > len(str(LARGEST_INDEX)) or int(text) > LARGEST_INDEX:
        raise UsageError(f"{text[:40]}: larger than the largest image index, {LARGEST_INDEX}")
    index = int(text)
    return Endpoint(pipeline.noise([index])[0], index, pipeline.default_class(index) if class_id is None else class_id)


FLAT = 1e-4  # radians: at smaller angles the great circle is numerically a straight line


def slerp(
    a: Float[Tensor, "C H W"], b: Float[Tensor, "C H W"], fractions: Float64[Tensor, "B"]
) -> Float[Tensor, "B C H W"]:
    """Return noise interpolated spherically, at fractions of the angle between a and b; exactly these at 0 and 1.

    Between independent normal noise every result is normal noise again, unlike the middle of a straight line.
    """
    wide_a, wide_b = a.cpu().double(), b.cpu().double()  # not every GPU has float64
    cosine = (wide_a * wide_b).sum() / (wide_a.norm() * wide_b.norm())
    angle = cosine.clamp(-1, 1).acos().item()
    if FLAT < angle < torch.pi - FLAT:
        weights = torch.stack([(1 - fractions) * angle, fractions * angle]).sin() / torch.tensor(angle).double().sin()
    else:
        weights = torch.stack([1 - fractions, fractions])
    weight_a, weight_b = rearrange(weights.to(a), "ends b -> ends b 1 1 1")
    return weight_a * a + weight_b * b


def uses_fresh_noise(settings: SampleRecipe) -> bool:
    """Return whether the sampler of the settings adds noise while it runs: found by a trial run on one pixel."""
    used = False

    def record(sigma: float, sigma_next: float) -> Tensor:
        nonlocal used
        used = True
        return torch.zeros(1, 1, 1, 1)

    def zero(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.zeros_like(x)

    levels = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    sample_by(settings, zero, torch.ones(1, 1, 1, 1), levels, record)
    return used


def check_endpoints(endpoints: Iterable[Endpoint], settings: SampleRecipe) -> None:
    """Refuse a stochastic sampler where an endpoint is noise from a file: it would not reproduce the file's image.

    Raises:
        UsageError: naming a deterministic sampler.
    """
    if any(endpoint.index is None for endpoint in endpoints) and uses_fresh_noise(settings):
        raise UsageError(
            f"--sampler {settings.sampler}: adds fresh noise, so that noise from a file does not become its image; "
            "use --sampler dpmpp_2m"
        )


def interpolate(pipeline: SamplingPipeline, a: Endpoint, b: Endpoint, frames: int) -> GenerateBatch:
    """Return a function that generates frames 0 to `frames` - 1 from a to b; the first and last frame are a and b.

    Where their classes differ, the denoised images for the two classes are interpolated.

    Args:
        frames: at least 2.

    Raises:
        UsageError: the sampler is stochastic, and an endpoint is noise from a file.
    """
    check_endpoints([a, b], pipeline.settings)

    def generate_batch(indices: list[int], classes: list[int] | None) -> Float[Tensor, "B C H W"]:
        fractions = torch.tensor(indices, dtype=torch.float64) / (frames - 1)
        x = float(pipeline.sigmas[0]) * slerp(a.start.to(pipeline.device), b.start.to(pipeline.device), fractions)
        denoise = _denoise_between(pipeline, a.class_id, b.class_id, fractions)
        return pipeline.sample(x, pipeline.sigmas, _noise_between(pipeline, a.index, b.index, fractions), denoise)

    return generate_batch


def _noise_between(
    pipeline: SamplingPipeline, a: int | None, b: int | None, fractions: Float64[Tensor, "B"]
) -> NoiseSource:
    """Return the samplers' noise, interpolated; an endpoint from a file implies a sampler that never calls it."""
    if a is None or b is None:
        return lambda sigma, sigma_next: torch.zeros(len(fractions), *pipeline.shape, device=pipeline.device)
    brownian = pipeline.brownian_noise([a, b])

    def between(sigma: float, sigma_next: float) -> Float[Tensor, "B C H W"]:
        noise_a, noise_b = brownian(sigma, sigma_next)
        return slerp(noise_a, noise_b, fractions)

    return between


def _denoise_between(
    pipeline: SamplingPipeline, a: int | None, b: int | None, fractions: Float64[Tensor, "B"]
) -> Denoise:
    """Return the denoising function for one class, or interpolated between two."""
    denoise_a, denoise_b = (
        pipeline.conditioned(None if class_id is None else [class_id] * len(fractions)) for class_id in (a, b)
    )
    if a == b:
        return denoise_a
    weight = rearrange(fractions, "b -> b 1 1 1")
    return lambda x, sigma: torch.lerp(denoise_a(x, sigma), denoise_b(x, sigma), weight.to(x))
