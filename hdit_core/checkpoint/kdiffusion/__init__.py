"""k-diffusion's inference checkpoints: its config and its state dict, read and written."""
