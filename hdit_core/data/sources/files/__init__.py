"""Sources whose inputs are files by name: folders, zip and tar archives, lists of paths."""
