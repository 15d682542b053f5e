"""Scores of images against their originals, pair by pair: PSNR, SSIM and a feature distance."""
