"""Attention of the blocks, and the implementations of neighborhood attention."""
