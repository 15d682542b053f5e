"""Images to score, read lazily from folders, archives, arrays and streams."""
