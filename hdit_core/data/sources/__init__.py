"""Where images come from: folders, archives, lists, shards, Parquet files, named sets."""

from hdit_core.data.sources.source import Entry, Source

__all__ = ["Entry", "Source"]
