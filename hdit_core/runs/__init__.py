"""Runs seen from outside (`hdit runs`): summaries, comparison, plots."""
