"""Image-to-image: variations of an image by adding noise and denoising it (SDEdit: Meng et al. 2022, arXiv 2108.01073).

The strength sets how much noise is added: it is the fraction of the schedule's steps that are run. Applied to an
upscaled image, this fills in detail.
"""

import math

from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.errors import UsageError
from hdit_core.generate.pipeline import GenerateBatch, SamplingPipeline

ROUNDING = 1e-9  # tolerance on strength times steps: 0.6 x 50 is 30


def sigmas_of(pipeline: SamplingPipeline, strength: float) -> Float64[Tensor, "levels"]:
    """Return the last levels of the schedule: that fraction of its steps, rounded up; for strength 0 only the final 0.

    Raises:
        UsageError: the strength is not in [0, 1].
    """
    if not 0 <= strength <= 1:
        raise UsageError(
            f"--strength {strength}: expected a number from 0 (returns the input) to 1 (ignores the input)"
        )
    steps = len(pipeline.sigmas) - 1
    return pipeline.sigmas[steps - math.ceil(strength * steps - ROUNDING) :]


def img2img(pipeline: SamplingPipeline, image: Float[Tensor, "1 C H W"], strength: float) -> GenerateBatch:
    """Return a function that generates variations of an image.

    Variation i gets the noise of image i of `hdit sample`, and is that image at strength 1, which ignores the input.

    Args:
        image: in [-1, 1].
        strength: from 0, which returns the input, to 1.

    Raises:
        UsageError: the strength is not in [0, 1].
    """
    sigmas = sigmas_of(pipeline, strength)
    image = image.to(pipeline.device)
    kept = 0.0 if len(sigmas) == len(pipeline.sigmas) else 1.0

    def generate_batch(indices: list[int], classes: list[int] | None) -> Float[Tensor, "B C H W"]:
        x = kept * image + float(sigmas[0]) * pipeline.noise(indices)
        return pipeline.sample(x, sigmas, pipeline.brownian_noise(indices), pipeline.conditioned(classes))

    return generate_batch
