"""Inversion: an image to its noise by the probability-flow ODE, and back to measure the round-trip error."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.checkpoint.safetensors_file import read_tensors, write_tensors
from hdit_core.devices import autocast, compute_dtype
from hdit_core.diffusion.probability_flow import solve_pf_ode
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.files import atomic_file, check_output
from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.generate.provenance import guide_provenance, weights_sha256

KIND = "noise"
LEVELS_PER_UNIT = 127.5  # 8-bit levels per unit of images in [-1, 1]
TOLERANCE = 1e-4
UNGUIDED = {"guidance_interval": None, "guidance_rescale": 0.0, "guide": None}  # of files that lack these keys


@dataclass(frozen=True)
class Inverted:
    """An image's noise, and the image reconstructed from it.

    Attributes:
        noise: standard normal if the model fits the distribution of images.
        back: the reconstruction, in [-1, 1].
        error_levels: root mean square difference from the image, in units of 1/255.
        largest_error_levels: largest difference of any pixel.
        num_evaluations: denoiser calls in both directions (NFE).
    """

    noise: Float[Tensor, "C H W"]
    back: Float[Tensor, "C H W"]
    error_levels: float
    largest_error_levels: float
    num_evaluations: int

    @property
    def psnr_db(self) -> float:
        """Peak signal-to-noise ratio of the reconstruction."""
        return 20 * math.log10(255 / self.error_levels) if self.error_levels else math.inf


@torch.inference_mode()
def invert(
    pipeline: SamplingPipeline,
    image: Float[Tensor, "1 C H W"],
    classes: Sequence[int] | None,
    tolerance: float = TOLERANCE,
) -> Inverted:
    """Return the noise that the ODE turns into an image, and the image reconstructed from it.

    The image is treated as one with noise of level sigma_min, which is invisible.

    Args:
        image: in [-1, 1].
        classes: of the one image; None for networks without classes.
        tolerance: of the ODE solver, relative and absolute.

    Raises:
        NumericalError: the denoiser returns NaN or infinity, or the ODE cannot be solved.
    """
    settings, device = pipeline.settings, pipeline.device
    image = image.to(device)
    denoise, low, high = pipeline.conditioned(classes), settings.sigma_min, settings.sigma_max
    with autocast(device, compute_dtype(pipeline.denoiser.recipe.train.precision, device)):
        up = solve_pf_ode(denoise, image, low, high, rtol=tolerance, atol=tolerance)
        noise = (up.x / high).float()
        down = solve_pf_ode(denoise, noise * high, high, low, rtol=tolerance, atol=tolerance)
    errors: Float64[Tensor, "1 C H W"] = (down.x - image).abs() * LEVELS_PER_UNIT
    return Inverted(
        noise=noise[0].cpu(),
        back=down.x[0].float().cpu(),
        error_levels=(errors**2).mean().sqrt().item(),
        largest_error_levels=errors.max().item(),
        num_evaluations=up.num_evaluations + down.num_evaluations,
    )


@dataclass(frozen=True)
class StoredNoise:
    """Noise in a file, and the class for which it becomes its image; None for networks without classes."""

    noise: Float[Tensor, "C H W"]
    class_id: int | None


def _provenance(pipeline: SamplingPipeline) -> dict[str, Any]:
    """Return the model and settings that noise belongs to: with others it does not become its image."""
    settings, guide = pipeline.settings, pipeline.guide
    return {
        "weights_sha256": weights_sha256(pipeline.denoiser),
        "image_size": list(pipeline.image_size),
        "sigma_max": settings.sigma_max,
        "guidance": settings.guidance,
        "guidance_interval": settings.guidance_interval and list(settings.guidance_interval),
        "guidance_rescale": settings.guidance_rescale,
        "guide": guide_provenance(guide) if guide is not None and guide.weight != 1 else None,
    }


def write_noise(path: Path, pipeline: SamplingPipeline, stored: StoredNoise) -> None:
    """Write noise as a safetensors file whose metadata records what it belongs to.

    Raises:
        UsageError: the file exists.
    """
    check_output("--out", path, new=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = _provenance(pipeline) | {"class": stored.class_id}
    with atomic_file(path) as temporary:
        recipe = pipeline.denoiser.recipe.model_dump_json()
        write_tensors(temporary, {KIND: stored.noise}, recipe, kind=KIND, about=json.dumps(about))


def read_noise(path: Path, pipeline: SamplingPipeline) -> StoredNoise:
    """Read noise that `write_noise` wrote, for the same weights, size, guidance and noise levels.

    Raises:
        CheckpointError: there is no such file, or it is damaged, or not such noise.
        UsageError: it belongs to something else.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("kind") != KIND or set(tensors) != {KIND}:
        raise CheckpointError(f"{path}: contains no noise; expected a file that `hdit edit invert` wrote")
    try:
        about = dict(json.loads(metadata["about"]))
        class_id = about.pop("class")
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata is damaged ({type(error).__name__})") from None
    about = UNGUIDED | about
    if changed := [key for key, value in _provenance(pipeline).items() if about.get(key) != value]:
        raise UsageError(f"{path}: its noise was made with another {changed[0]}; invert the image again with this one")
    noise = tensors[KIND]
    num_classes = pipeline.num_classes
    valid_class = class_id is None or (type(class_id) is int and 0 <= class_id <= num_classes and num_classes > 0)
    if noise.shape != pipeline.shape or noise.dtype != torch.float32 or not noise.isfinite().all() or not valid_class:
        raise CheckpointError(f"{path}: expected finite float32 noise of shape {pipeline.shape} and a valid class")
    return StoredNoise(noise, class_id)
