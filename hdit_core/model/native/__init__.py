"""Neighborhood attention on a CPU by a program of our own, compiled on the machine when it is first used."""
