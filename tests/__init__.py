"""A package, so that no other distribution's `tests` in the environment is taken for it (torch-fidelity ships one)."""
