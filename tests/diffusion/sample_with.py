"""Sampling in tests, with the sampler's name and its settings as arguments."""

from hdit_core.diffusion.samplers.registry import sample_by
from hdit_core.recipe.sample import SampleRecipe


def sample(name, denoise, x, sigmas, noise, on_step=None, **settings):
    """Return what `sample_by` does with these keys of `[sample]`."""
    return sample_by(SampleRecipe(sampler=name, **settings), denoise, x, sigmas, noise, on_step)
