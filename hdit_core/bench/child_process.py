"""Work in a process of its own: what memory it took at most, and an error rather than a kill when there is not enough.

A process's peak is for ever, and what it has freed it may keep: so each figure gets a new process, forked from a server
that has imported torch and done nothing yet. Where the system lets us, the new process is held to the memory that was
free when it began.
"""

import multiprocessing
import re
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch

from hdit_core.devices import tune_malloc
from hdit_core.errors import HditError, is_out_of_memory
from hdit_core.model.attention.neighborhood import neighborhood_attention

R = TypeVar("R")
Say = Callable[[str], None]

GROUP = "/sys/fs/cgroup"
SPARE = 0.05  # of the free memory, left to others
PRELOADED = [
    "torch._dynamo",  # which torch's custom operators import when first called, for seconds
    "hdit_core.bench.attention",
    "hdit_core.bench.train",
    "hdit_core.bench.sample",
    "hdit_core.bench.scaling",
]


class OutOfMemory(HditError):
    """The work does not fit into the memory there is."""


@dataclass(frozen=True)
class Memory:
    """What a process took.

    Attributes:
        peak_bytes: most that was resident at once, beyond what the idle process had with its libraries; None where the
            system does not tell.
    """

    peak_bytes: int | None


def in_child_process(
    work: Callable[..., R], *arguments: Any, threads: int, say: Say = lambda line: None
) -> tuple[R, Memory]:
    """Do work in a new process and return its result and what memory it took.

    Args:
        work: a function at the top of a module; called with `arguments` and, as `say=`, with what hands on remarks.
        threads: that torch computes with there.
        say: is told of remarks.

    Raises:
        OutOfMemory: the process could not get what it needed, or was ended by the system.
        HditError: the work raised it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_answer, args=(theirs, work, arguments, threads)
    )  # no daemon: it may have children
    process.start()
    theirs.close()
    try:
        return _listen(ours, say)
    except EOFError:
        process.join()
        raise _end_of(process.exitcode) from None
    finally:
        process.kill()  # it has answered, or nobody waits for it any more
        process.join()


def measure_in_child_process(
    work: Callable[..., R], *arguments: Any, device: torch.device, threads: int, say: Say = lambda line: None
) -> tuple[R, Memory]:
    """Do work that computes on a device, and return its result and what memory it took there.

    On a CPU that is a process of its own, see `in_child_process`; the allocator of a GPU counts by itself.

    Raises:
        OutOfMemory: it does not fit.
        HditError: the work raised it.
    """
    if device.type == "cpu":
        return in_child_process(work, *arguments, threads=threads, say=say)
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    before_bytes = torch.cuda.memory_allocated(device) if on_cuda else 0
    try:
        result = work(*arguments, say=say)
    except RuntimeError as problem:
        if not is_out_of_memory(problem):
            raise
        raise OutOfMemory(f"does not fit into the memory of {device}") from None
    return result, Memory(torch.cuda.max_memory_allocated(device) - before_bytes if on_cuda else None)


def _end_of(code: int | None) -> Exception:
    """Return what it means that a process ended without an answer: by a traceback, which it printed, or killed."""
    if code == 1:
        return RuntimeError("the process that measures failed; its traceback is printed above")
    return OutOfMemory(f"was ended by the system (code {code}): there is not enough memory")


def _listen(pipe: Connection, say: Say) -> Any:
    while True:
        kind, value = pipe.recv()
        if kind == "remark":
            say(value)
        elif kind == "error":
            raise value
        else:
            return value


def _warm_up() -> None:
    """Load what loads itself on first use: it is not what the work takes."""
    q, k, v = torch.randn(3, 1, 3, 3, 1, 8, requires_grad=True)
    neighborhood_attention(q, k, v, 3).sum().backward()


def _answer(pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...], threads: int) -> None:
    """Run in the new process: hold it to the free memory, work, and send what came of it."""
    torch.set_num_threads(threads)
    tune_malloc()  # as training and sampling have it
    _warm_up()
    before_bytes, limit_bytes = resident_bytes("VmRSS"), hold_to_free_memory()
    try:
        result = work(*arguments, say=lambda line: pipe.send(("remark", line)))
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        free = "that is free" if limit_bytes is None else f"of {limit_bytes / 2**30:.1f} GiB that are free"
        pipe.send(("error", OutOfMemory(f"does not fit into the memory {free}")))
    except HditError as problem:
        pipe.send(("error", problem))
    else:
        peak_bytes = resident_bytes("VmHWM")
        known = before_bytes is not None and peak_bytes is not None
        pipe.send(("result", (result, Memory(peak_bytes - before_bytes if known else None))))  # type: ignore[operator]


def resident_bytes(key: str) -> int | None:
    """Return `VmRSS` (now) or `VmHWM` (at most so far) of this process, None where there is no /proc."""
    return _kibibytes("/proc/self/status", key)


def free_bytes() -> int | None:
    """Return how much memory this process could still get, by the system and by its control group."""
    free = _kibibytes("/proc/meminfo", "MemAvailable")
    limit, used = (_find(f"{GROUP}/memory.{name}", r"(\d+)") for name in ("max", "current"))
    cached = _find(f"{GROUP}/memory.stat", r"^inactive_file (\d+)$")  # counts as used, and is given back on demand
    if free is None or limit is None or used is None:
        return free
    return min(free, max(0, limit - used + (cached or 0)))


def hold_to_free_memory() -> int | None:
    """Let allocations beyond the free memory fail, before the system begins to kill; return how much that is."""
    import resource

    used, free = _kibibytes("/proc/self/status", "VmData"), free_bytes()
    if used is None or free is None:
        return None
    limit = int(free * (1 - SPARE))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + limit, hard))
    return limit


def _kibibytes(file: str, key: str) -> int | None:
    found = _find(file, rf"^{key}:\s*(\d+) kB$")
    return None if found is None else 1024 * found


def _find(file: str, pattern: str) -> int | None:
    """Return the number that the pattern finds in a file, None where there is no such file or number."""
    try:
        found = re.search(pattern, Path(file).read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None
