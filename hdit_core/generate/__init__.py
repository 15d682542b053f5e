"""Sampling: from a checkpoint and seeds to images and files."""

from hdit_core.diffusion.guidance import Guide
from hdit_core.generate.generate import generate
from hdit_core.generate.pipeline import Samples
from hdit_core.generate.settings import open_denoiser, sample_settings

__all__ = ["Guide", "Samples", "generate", "open_denoiser", "sample_settings"]
