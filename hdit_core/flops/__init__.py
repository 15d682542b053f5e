"""The work of a model, counted from its recipe without torch."""
