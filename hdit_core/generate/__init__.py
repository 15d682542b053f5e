"""From seeds to images: checkpoint, guided denoiser, sampler, files."""
