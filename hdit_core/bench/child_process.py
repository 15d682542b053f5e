"""Measurements in a child process: its peak memory, and an error instead of a kill when memory runs out.

The peak memory of a process never falls, and it may keep memory that was freed. So each measurement gets a new process,
forked from a server that has imported torch and done nothing else. Where the system supports it, the new process is
limited to the memory that was free when it started.
"""

import logging
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from hdit_core.bench.timing import Rounds
from hdit_core.devices import tune_malloc
from hdit_core.errors import HditError, is_out_of_memory
from hdit_core.model.attention.neighborhood import neighborhood_attention
from hdit_core.system_memory import limit_to_free_memory, resident_bytes

logger = logging.getLogger("hdit")

R = TypeVar("R")

SPARE = 0.05  # fraction of the free memory that is left to other processes
PRELOADED = [
    "torch._dynamo",  # imported by the first call of a custom operator of torch, which takes seconds
    "hdit_core.bench.attention",
    "hdit_core.bench.train",
    "hdit_core.bench.sample",
    "hdit_core.bench.scaling",
]


class OutOfMemory(HditError):
    """A measurement does not fit into the available memory."""


@dataclass(frozen=True)
class BenchSettings:
    """How to measure.

    Attributes:
        device: runs the computation.
        threads: CPU threads of torch.
        rounds: number of runs.
    """

    device: torch.device
    threads: int
    rounds: Rounds = field(default_factory=Rounds)


def in_child_process(function: Callable[..., R], *arguments: Any, threads: int) -> tuple[R, int | None]:
    """Call a function in a new process and return its result and the peak memory of the process in bytes.

    The memory is resident memory above that of an idle process with the same libraries, None if unknown.

    What the function logs is logged in this process.

    Args:
        function: at the top level of a module.
        arguments: of the function.
        threads: CPU threads of torch in the new process.

    Raises:
        OutOfMemory: the process ran out of memory, or was killed by the system.
        HditError: the function raised it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, function, arguments, threads))  # no daemon: may have children
    process.start()
    sender.close()
    try:
        return _receive(receiver)
    except EOFError:
        process.join()
        raise _exit_error(process.exitcode) from None
    finally:
        process.kill()  # it has sent its result, or the caller no longer waits for it
        process.join()


def measure_in_child_process(
    function: Callable[..., R], *arguments: Any, settings: BenchSettings
) -> tuple[R, int | None]:
    """Call a function that computes on a device, and return its result and the peak memory it used there in bytes.

    On a CPU it runs in a child process, see `in_child_process`; on a GPU the allocator counts.

    Raises:
        OutOfMemory: it does not fit.
        HditError: the function raised it.
    """
    device = settings.device
    if device.type == "cpu":
        return in_child_process(function, *arguments, threads=settings.threads)
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    before_bytes = torch.cuda.memory_allocated(device) if on_cuda else 0
    try:
        result = function(*arguments)
    except RuntimeError as problem:
        if not is_out_of_memory(problem):
            raise
        raise OutOfMemory(f"does not fit into the memory of {device}") from None
    return result, torch.cuda.max_memory_allocated(device) - before_bytes if on_cuda else None


def _exit_error(code: int | None) -> Exception:
    """Return the error of a process that ended without a result: after a traceback, which it printed, or killed."""
    if code == 1:
        return RuntimeError("the measuring process failed; its traceback is printed above")
    return OutOfMemory(f"was killed by the system (code {code}): not enough memory")


def _receive(pipe: Connection) -> Any:
    while True:
        kind, value = pipe.recv()
        if kind == "log":
            logger.info(value)
        elif kind == "error":
            raise value
        else:
            return value


class _PipeHandler(logging.Handler):
    """Sends log messages to the parent process."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Send one message."""
        self._pipe.send(("log", record.getMessage()))


def _warm_up() -> None:
    """Load modules that are loaded on first use, so that they do not count as memory of the function."""
    q, k, v = torch.randn(3, 1, 3, 3, 1, 8, requires_grad=True)
    neighborhood_attention(q, k, v, 3).sum().backward()


def _run(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], threads: int) -> None:
    """Limit the new process to the free memory, call the function, and send its result or error."""
    logger.setLevel(logging.INFO)
    logger.addHandler(_PipeHandler(pipe))
    torch.set_num_threads(threads)
    tune_malloc()  # as in training and sampling
    _warm_up()
    before_bytes, limit_bytes = resident_bytes("VmRSS"), limit_to_free_memory(SPARE)
    try:
        result = function(*arguments)
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        free = "free memory" if limit_bytes is None else f"{limit_bytes / 2**30:.1f} GiB of free memory"
        pipe.send(("error", OutOfMemory(f"does not fit into the {free}")))
    except HditError as problem:
        pipe.send(("error", problem))
    else:
        peak_bytes = resident_bytes("VmHWM")
        known = before_bytes is not None and peak_bytes is not None
        pipe.send(("result", (result, peak_bytes - before_bytes if known else None)))  # type: ignore[operator]
