"""The trainer: runs that can be stopped at any step and resume as if they had not been interrupted."""
