"""The run directory, its checkpoints (safetensors and JSON, verified), and conversion from and to k-diffusion."""

from hdit_core.checkpoint.denoiser import load_denoiser

__all__ = ["load_denoiser"]
