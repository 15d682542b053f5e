"""Diffusion: noise densities, preconditioning, losses, schedules, samplers, guidance, likelihood."""
