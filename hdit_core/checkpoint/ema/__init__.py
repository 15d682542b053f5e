"""EMA weights of any length after training, from snapshots (post-hoc EMA of EDM2)."""
