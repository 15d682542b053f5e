"""Estimates of a run's memory, time, energy and cost from its recipe and the hardware."""
