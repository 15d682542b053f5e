"""`hdit edit`: image-to-image, inpainting, interpolation, inversion, likelihood."""
