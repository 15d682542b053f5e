"""The trainer: a run that can be stopped at any step and goes on as if it never had been."""
