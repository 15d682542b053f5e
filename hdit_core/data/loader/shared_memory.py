"""Shared memory (/dev/shm), through which batches come from worker processes; containers often have only 64 MB of it.

A worker that finds it full loses its batch without a word to the main process, so it is checked at the start, and again
whenever no batch comes.
"""

import os
from pathlib import Path

from hdit_core.errors import HditError

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


def free_shared_memory() -> int | None:
    """Return the free bytes of shared memory, None where the system has no such folder."""
    try:
        facts = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return facts.f_bavail * facts.f_frsize


def check_shared_memory(needed_bytes: int, for_what: str) -> None:
    """Refuse to go on with less shared memory than batches need.

    Args:
        needed_bytes: of the batches that are in it at once.
        for_what: needs them, for the message.

    Raises:
        HditError: less is free.
    """
    free_bytes = free_shared_memory()
    if free_bytes is not None and free_bytes < needed_bytes:
        raise HditError(
            f"{SHARED_MEMORY}: {free_bytes / 1e6:,.0f} MB of shared memory are free, the batches of {for_what} need "
            f"{needed_bytes / 1e6:,.0f} MB; start the container with --shm-size=1g or more (or --ipc=host), or lower "
            "data.workers or train.micro_batch_size"
        )
