"""Reads a data set three times over where few files may be open."""

import resource

from hdit_core.data.loader.batch import load_batches
from hdit_core.data.loader.image_reader import ImageReader


def read_limited(folder: str, soft: int, hard: int, workers: int) -> tuple[bool, int]:
    """Limit this process, and return whether all batches came, and the soft limit afterwards."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    reader = ImageReader(folder, cache_bytes=0)
    plan = [range(first, first + 4) for first in range(0, len(reader) - 3, 4)] * 3
    batches = load_batches(reader, plan, seed=0, workers=workers)
    return sum(1 for batch in batches) == len(plan), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
