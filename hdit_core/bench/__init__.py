"""Benchmarks of this machine: attention, training, sampling, scaling and data loading, each with a lower bound."""
