"""Color spaces of image files and their conversion to sRGB."""
