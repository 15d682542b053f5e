"""What a run is: the tables of a TOML recipe, checked. Imports no torch, so that it reads in milliseconds."""
