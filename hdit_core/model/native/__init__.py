"""C++ kernels for CPUs and their Python bindings, compiled on first use."""
