"""Attention operators of the transformer blocks, and the backends of neighborhood attention."""
