"""The main memory of this machine, and the limits of containers, Slurm jobs and `ulimit`."""

import re
from pathlib import Path

GROUP = "/sys/fs/cgroup"
GROUP_LIMITS = (f"{GROUP}/memory.max", f"{GROUP}/memory/memory.limit_in_bytes")


def resident_bytes(key: str) -> int | None:
    """Return `VmRSS` (current) or `VmHWM` (peak) of this process, None on systems without /proc."""
    return _kibibytes("/proc/self/status", key)


def memory_bytes(key: str) -> int | None:
    """Return `MemTotal` or `MemAvailable` of this machine, None on systems without /proc."""
    return _kibibytes("/proc/meminfo", key)


def memory_limit() -> int | None:
    """Return the lowest memory limit of this process in bytes, by control group or `ulimit`; None without one."""
    import resource

    group = (_find(name, r"\A(\d+)\s*\Z") for name in GROUP_LIMITS)
    own = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    # version 1 of control groups states "no limit" as a huge number, and `ulimit` as -1
    return min((limit for limit in (*group, *own) if limit and 0 < limit < 1 << 60), default=None)


def free_bytes() -> int | None:
    """Return the memory that this process can still allocate, by the system and by its control group."""
    free = memory_bytes("MemAvailable")
    limit, used = (_find(f"{GROUP}/memory.{name}", r"(\d+)") for name in ("max", "current"))
    cached = _find(f"{GROUP}/memory.stat", r"^inactive_file (\d+)$")  # counts as used, but is reclaimed on demand
    if free is None or limit is None or used is None:
        return free
    return min(free, max(0, limit - used + (cached or 0)))


def limit_to_free_memory(spare: float) -> int | None:
    """Make allocations beyond the free memory fail, instead of letting the system kill processes.

    Args:
        spare: fraction of the free memory that is left to other processes.

    Returns:
        How many further bytes this process may allocate; None, and no limit, on systems without /proc.
    """
    import resource

    used, free = _kibibytes("/proc/self/status", "VmData"), free_bytes()
    if used is None or free is None:
        return None
    limit = int(free * (1 - spare))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + limit, hard))
    return limit


def _kibibytes(file: str, key: str) -> int | None:
    value = _find(file, rf"^{key}:\s*(\d+) kB$")
    return None if value is None else 1024 * value


def _find(file: str, pattern: str) -> int | None:
    """Return the number that matches the pattern in a file, None if there is no such file or number."""
    try:
        match = re.search(pattern, Path(file).read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) if match else None
