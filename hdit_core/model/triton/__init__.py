"""Neighborhood attention by kernels in Triton, for CUDA and ROCm devices."""
