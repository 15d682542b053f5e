"""Variations of a picture: noise is laid on it and taken off again (SDEdit: Meng et al. 2022, arXiv 2108.01073).

How much noise, the strength says, the share of the schedule that is walked. A picture that was enlarged before gets
its detail that way.
"""

import math

from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.errors import UsageError
from hdit_core.generate.pipeline import Draw, SamplingPipeline

ROUNDING = 1e-9  # of strength times steps: 0.6 x 50 is 30


def sigmas_of(pipeline: SamplingPipeline, strength: float) -> Float64[Tensor, "levels"]:
    """Return the last levels of the schedule: that share of its steps, rounded up; with strength 0 only the last, 0.

    Raises:
        UsageError: the strength is no share.
    """
    if not 0 <= strength <= 1:
        raise UsageError(f"--strength {strength}: expected a share from 0 (the picture itself) to 1 (nothing of it)")
    steps = len(pipeline.sigmas) - 1
    return pipeline.sigmas[steps - math.ceil(strength * steps - ROUNDING) :]


def img2img(pipeline: SamplingPipeline, picture: Float[Tensor, "1 C H W"], strength: float) -> Draw:
    """Return what draws variations of a picture.

    Image i gets the noise that `hdit sample` gives image i: at strength 1, where nothing of the picture is left, it is
    that image.

    Args:
        picture: in [-1, 1].
        strength: from 0, the picture itself, to 1.

    Raises:
        UsageError: the strength is no share.
    """
    sigmas = sigmas_of(pipeline, strength)
    kept = 0.0 if len(sigmas) == len(pipeline.sigmas) else 1.0

    def draw(numbers: list[int], classes: list[int] | None) -> Float[Tensor, "B C H W"]:
        x = kept * picture + float(sigmas[0]) * pipeline.noise(numbers)
        return pipeline.sample(x, sigmas, pipeline.brownian_noise(numbers), pipeline.conditioned(classes))

    return draw
