"""C++ kernels for CPUs and their bindings, compiled on the machine when they are first used."""
