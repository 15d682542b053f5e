"""From seeds to images: checkpoint, guided denoiser, sampler, files."""

from hdit_core.diffusion.guidance import Guide
from hdit_core.generate.generate import Generated, generate
from hdit_core.generate.settings import open_denoiser, sample_settings

__all__ = ["Generated", "Guide", "generate", "open_denoiser", "sample_settings"]
