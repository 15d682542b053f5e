"""Triton kernels of neighborhood attention for CUDA and ROCm devices."""
