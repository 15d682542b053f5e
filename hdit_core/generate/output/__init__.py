"""Where samples are written: folders, archives, animations."""
