"""One training step: its batch plan, its data, its update and its result."""
