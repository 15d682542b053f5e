"""How many shards a process keeps open: as many as help, within the system's limit of open files."""

import resource

WANTED_LIMIT = 4096  # of open files; some systems start with 256
MOST_OPEN_SHARDS = 256
RESERVED = 64  # for libraries, logs and sockets; half of the rest is for the batches of worker processes


def raise_open_files_limit() -> int:
    """Raise the soft limit of open files to `WANTED_LIMIT`, or as far as the hard limit allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return WANTED_LIMIT
    wanted = WANTED_LIMIT if hard == resource.RLIM_INFINITY else min(WANTED_LIMIT, hard)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # macOS has a lower limit of its own
            return soft
    return max(soft, wanted)


def open_shards_limit() -> int:
    """Return how many shards may be open at once."""
    return min(MOST_OPEN_SHARDS, max(8, (raise_open_files_limit() - RESERVED) // 2))
