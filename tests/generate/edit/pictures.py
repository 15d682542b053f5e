"""Random pictures, and the pipeline that edits them."""

import numpy as np

from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.randomness import stream

SIZE = (16, 24)


def pipeline_of(denoiser, seed=5, **settings):
    values = {"batch_size": 3} | settings
    return SamplingPipeline(denoiser, denoiser.recipe.sample.model_copy(update=values), seed, SIZE)


def pictures_u8(count=1):
    return stream(7, "pictures", 0).integers(0, 256, (count, *SIZE, 3), np.uint8)
