"""Degradations that make a condition image from an image: pure functions of (image, seed, number)."""
