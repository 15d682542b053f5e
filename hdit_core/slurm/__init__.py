"""Batch scripts for Slurm, and the decision whether a run that ended is put into the queue again."""
