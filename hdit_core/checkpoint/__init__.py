"""A run on disk: whole and verified checkpoints of safetensors and JSON, and the weights of k-diffusion."""

from hdit_core.checkpoint.denoiser import load_denoiser

__all__ = ["load_denoiser"]
