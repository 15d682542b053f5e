"""Reading and writing of k-diffusion's inference checkpoints: config and state dict."""
