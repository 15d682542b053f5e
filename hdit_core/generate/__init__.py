"""Sampling: from a checkpoint and seeds to images and files."""

from hdit_core.diffusion.guidance import Guide
from hdit_core.generate.generate import generate
from hdit_core.generate.pipeline import Generated
from hdit_core.generate.settings import open_denoiser, sample_settings

__all__ = ["Generated", "Guide", "generate", "open_denoiser", "sample_settings"]
