"""One image: file bytes to sRGB pixels, to a size, to encoded bytes."""
