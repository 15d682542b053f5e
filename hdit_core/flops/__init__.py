"""Parameters, FLOPs and activation memory of a model, computed from its recipe without torch."""
