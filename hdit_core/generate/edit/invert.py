"""A picture as noise: by the probability-flow ODE up to the highest noise level, and back to see what is lost."""

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
from hdit_core.files import atomic_file
from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.generate.provenance import guide_provenance, weights_sha256

KIND = "noise"
LEVELS_PER_UNIT = 127.5  # of 8 bits, in images in [-1, 1]
TOLERANCE = 1e-4
UNLED = {"guidance_interval": None, "guidance_rescale": 0.0, "guide": None}  # of files that do not say it


@dataclass(frozen=True)
class Inverted:
    """A picture's noise, and what comes back of the picture.

    Attributes:
        noise: standard normal as far as the model is right.
        back: the picture that the ODE makes of the noise, in [-1, 1].
        error_levels: root mean square of what differs, in 8-bit levels.
        largest_error_levels: of any pixel.
        questions: how often the model was asked on both ways.
    """

    noise: Float[Tensor, "C H W"]
    back: Float[Tensor, "C H W"]
    error_levels: float
    largest_error_levels: float
    num_evaluations: int

    @property
    def psnr_db(self) -> float:
        """Peak signal-to-noise ratio of what comes back."""
        return 20 * math.log10(255 / self.error_levels) if self.error_levels else math.inf


@torch.inference_mode()
def invert(
    pipeline: SamplingPipeline,
    picture: Float[Tensor, "1 C H W"],
    classes: Sequence[int] | None,
    tolerance: float = TOLERANCE,
) -> Inverted:
    """Find the noise that the ODE turns into a picture, and turn it into that again.

    The picture is taken as it is for one with noise of level sigma_min, which is not seen.

    Args:
        picture: in [-1, 1].
        classes: of the one picture; None for networks without classes.
        tolerance: of the solver, relative and absolute.

    Raises:
        NumericalError: the model's answer is not finite, or the ODE cannot be solved.
    """
    settings, device = pipeline.settings, pipeline.device
    denoise, low, high = pipeline.conditioned(classes), settings.sigma_min, settings.sigma_max
    with autocast(device, compute_dtype(pipeline.denoiser.recipe.train.precision, device)):
        up = solve_pf_ode(denoise, picture, low, high, rtol=tolerance, atol=tolerance)
        noise = (up.x / high).float()
        down = solve_pf_ode(denoise, noise * high, high, low, rtol=tolerance, atol=tolerance)
    errors: Float64[Tensor, "1 C H W"] = (down.x - picture).abs() * LEVELS_PER_UNIT
    return Inverted(
        noise=noise[0].cpu(),
        back=down.x[0].float().cpu(),
        error_levels=(errors**2).mean().sqrt().item(),
        largest_error_levels=errors.max().item(),
        num_evaluations=up.num_evaluations + down.num_evaluations,
    )


@dataclass(frozen=True)
class StoredNoise:
    """Noise in a file, and the class with which it becomes its picture; None for networks without classes."""

    noise: Float[Tensor, "C H W"]
    class_id: int | None


def _made_with(pipeline: SamplingPipeline) -> dict[str, Any]:
    """Return what noise belongs to: with anything else it does not become its picture."""
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
    """Write noise as a safetensors file that says what it belongs to.

    Raises:
        UsageError: the file exists.
    """
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path}: exists, and is not replaced; give another with --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    about = _made_with(pipeline) | {"class": stored.class_id}
    with atomic_file(path) as temporary:
        recipe = pipeline.denoiser.recipe.model_dump_json()
        write_tensors(temporary, {KIND: stored.noise}, recipe, kind=KIND, about=json.dumps(about))


def read_noise(path: Path, pipeline: SamplingPipeline) -> StoredNoise:
    """Read noise that `write_noise` wrote, for the same weights, size, guidance and noise levels.

    Raises:
        CheckpointError: there is no such file, or it is damaged, or no such noise.
        UsageError: it belongs to something else.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("kind") != KIND or set(tensors) != {KIND}:
        raise CheckpointError(f"{path}: holds no noise; expected a file that `hdit edit invert` wrote")
    try:
        about = dict(json.loads(metadata["about"]))
        class_id = about.pop("class")
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata is damaged ({type(error).__name__})") from None
    about = UNLED | about
    if changed := [key for key, value in _made_with(pipeline).items() if about.get(key) != value]:
        raise UsageError(f"{path}: its noise belongs to another {changed[0]}; invert the picture again with this one")
    noise = tensors[KIND]
    num_classes = pipeline.denoiser.recipe.model.num_classes
    fits = class_id is None or (type(class_id) is int and 0 <= class_id <= num_classes)
    if noise.shape != pipeline.shape or noise.dtype != torch.float32 or not noise.isfinite().all() or not fits:
        raise CheckpointError(f"{path}: its noise is not finite float32 of {pipeline.shape}, or its class is none")
    return StoredNoise(noise, class_id)
