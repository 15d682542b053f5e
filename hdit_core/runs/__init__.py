"""Inspection of runs (`hdit runs`): summaries, comparison, plots."""
