"""Samplers, from noise to images, and their noise schedules."""
