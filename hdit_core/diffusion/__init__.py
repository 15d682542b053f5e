"""The mathematics of noise: densities, preconditioning, losses, schedules, samplers, guidance."""
