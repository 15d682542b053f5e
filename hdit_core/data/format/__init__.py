"""A prepared data set on disk: manifest, shards, checksums, verification."""
