"""The ends of an interpolation, as people write them: the number of an image, or a file with a picture's noise."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.diffusion.samplers.sampler import sample_by
from hdit_core.diffusion.samplers.sampler_state import Denoise, NoiseSource
from hdit_core.errors import UsageError
from hdit_core.generate.edit.invert import read_noise
from hdit_core.generate.index_ranges import LARGEST_NUMBER
from hdit_core.generate.pipeline import Draw, SamplingPipeline, check_classes
from hdit_core.recipe.sample import SampleRecipe


@dataclass(frozen=True)
class Endpoint:
    """One end of the way.

    Attributes:
        start: the standard normal noise that it begins as.
        number: whose noise it meets on its way down; None: it meets none, its start says all.
        class_id: None for networks without classes.
    """

    start: Float[Tensor, "C H W"]
    number: int | None
    class_id: int | None

    @property
    def identity(self) -> dict[str, object]:
        """What decides its pixels besides the seed, as plain values."""
        start = hashlib.sha256(self.start.cpu().numpy().tobytes()).hexdigest()
        return {"noise_sha256": start, "number": self.number, "class": self.class_id}


def parse_endpoint(text: str, pipeline: SamplingPipeline, class_id: int | None = None) -> Endpoint:
    """Return the end that a text means.

    Args:
        text: digits are the number of an image of the painter's seed, anything else is a file of `write_noise`.
        class_id: of the image; None: as `hdit sample` gives it to the number, or as the file says.

    Raises:
        UsageError: the network has no such class, or the noise in the file belongs to something else.
        CheckpointError: there is no such file, or it holds no noise.
    """
    num_classes = pipeline.denoiser.recipe.model.num_classes
    check_classes(num_classes, [0], None if class_id is None else [class_id])
    if not (text.isascii() and text.isdigit()):
        stored = read_noise(Path(text), pipeline)
        return Endpoint(stored.noise, None, stored.class_id if class_id is None else class_id)
    if len(text) > len(str(LARGEST_NUMBER)) or int(text) > LARGEST_NUMBER:
        raise UsageError(f"{text[:40]}: larger than any image's number, {LARGEST_NUMBER}")
    number = int(text)
    in_turn = number % num_classes if num_classes else None
    return Endpoint(pipeline.noise([number])[0], number, in_turn if class_id is None else class_id)


FLAT = 1e-4  # radians: below it the circle is a straight line


def slerp(
    a: Float[Tensor, "C H W"], b: Float[Tensor, "C H W"], shares: Float64[Tensor, "B"]
) -> Float[Tensor, "B C H W"]:
    """Return noise between two images of noise, at shares of the angle between them; at 0 and 1 exactly these.

    Between independent images of normal noise all of it is normal noise again, which a straight line's middle is not.
    """
    cosine = (a.double() * b.double()).sum() / (a.double().norm() * b.double().norm())
    angle = cosine.clamp(-1, 1).acos().item()
    if FLAT < angle < torch.pi - FLAT:
        weights = torch.stack([(1 - shares) * angle, shares * angle]).sin() / torch.tensor(angle).double().sin()
    else:
        weights = torch.stack([1 - shares, shares])
    of_a, of_b = rearrange(weights.to(a), "ends b -> ends b 1 1 1")
    return of_a * a + of_b * b


def draws_fresh_noise(settings: SampleRecipe) -> bool:
    """Return whether the sampler of the settings asks for noise on its way: tried on a grain, by a model of nothing."""
    asked = False

    def notice(sigma: float, sigma_next: float) -> Tensor:
        nonlocal asked
        asked = True
        return torch.zeros(1, 1, 1, 1)

    def nothing(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.zeros_like(x)

    levels = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    sample_by(settings, nothing, torch.ones(1, 1, 1, 1), levels, notice)
    return asked


def check_endpoints(ends: Iterable[Endpoint], settings: SampleRecipe) -> None:
    """Refuse a sampler with fresh noise for an end that is noise from a file, whose image it would not become.

    Raises:
        UsageError: naming one that will do.
    """
    if any(end.number is None for end in ends) and draws_fresh_noise(settings):
        raise UsageError(
            f"--sampler {settings.sampler}: draws fresh noise on its way, and noise from a file does not become its "
            "image with that; use --sampler dpmpp_2m"
        )


def interpolate(pipeline: SamplingPipeline, a: Endpoint, b: Endpoint, frames: int) -> Draw:
    """Return what draws frames 0 to `frames` - 1 of the way from a to b; the first and the last are these exactly.

    Where their classes differ, what the model makes of the one passes over to what it makes of the other.

    Args:
        frames: at least 2.

    Raises:
        UsageError: the sampler draws fresh noise, and an end is noise from a file.
    """
    check_endpoints([a, b], pipeline.settings)

    def draw(numbers: list[int], classes: list[int] | None) -> Float[Tensor, "B C H W"]:
        shares = torch.tensor(numbers, dtype=torch.float64, device=pipeline.device) / (frames - 1)
        x = float(pipeline.sigmas[0]) * slerp(a.start.to(pipeline.device), b.start.to(pipeline.device), shares)
        denoise = _between(pipeline, a.class_id, b.class_id, shares)
        return pipeline.sample(x, pipeline.sigmas, _noise_between(pipeline, a.number, b.number, shares), denoise)

    return draw


def _noise_between(
    pipeline: SamplingPipeline, a: int | None, b: int | None, shares: Float64[Tensor, "B"]
) -> NoiseSource:
    """Return the noise of the steps, between that of the ends; with an end from a file nobody asks for it."""
    if a is None or b is None:
        return lambda sigma, sigma_next: torch.zeros(len(shares), *pipeline.shape, device=pipeline.device)
    motion = pipeline.brownian_noise([a, b])

    def between(sigma: float, sigma_next: float) -> Float[Tensor, "B C H W"]:
        of_a, of_b = motion(sigma, sigma_next)
        return slerp(of_a, of_b, shares)

    return between


def _between(pipeline: SamplingPipeline, a: int | None, b: int | None, shares: Float64[Tensor, "B"]) -> Denoise:
    """Return what a sampler asks: of one class, or by shares of two."""
    of_a, of_b = (pipeline.conditioned(None if one is None else [one] * len(shares)) for one in (a, b))
    if a == b:
        return of_a
    weight = rearrange(shares, "b -> b 1 1 1")
    return lambda x, sigma: torch.lerp(of_a(x, sigma), of_b(x, sigma), weight.to(x.dtype))
