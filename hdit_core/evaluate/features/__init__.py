"""Features of images, computed on one rank or many, cached across runs."""
