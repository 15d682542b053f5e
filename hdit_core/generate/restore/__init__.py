"""`hdit restore`: from degraded images of any size to restored ones of the same names."""
