"""Processes that are ranks of one world, as torchrun would start them, for tests.

They are forked from a server that has imported torch once, so that a world starts in a tenth of a second.
"""

import faulthandler
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tests.forking import CONTEXT
from tests.ports import take_port


def torchrun(rank: int, size: int, port: int) -> dict[str, str]:
    """Return the environment that torchrun gives a rank."""
    number, count = str(rank), str(size)
    return {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count} | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def srun(rank: int, size: int, port: int) -> dict[str, str]:
    """Return the environment that srun gives a rank on one node; where ranks meet follows from the job."""
    return {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_STEP_NUM_TASKS": str(size)} | {
        "SLURM_JOB_ID": str(port),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NODELIST": "here",
    }


def _be_rank(environment: dict[str, str], answers: Any, act: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    faulthandler.enable()
    torch.set_num_threads(1)
    try:
        answers.send_bytes(pickle.dumps((True, act(*arguments))))  # plainly: tensors outlive their rank
    except BaseException:
        answers.send_bytes(pickle.dumps((False, traceback.format_exc())))
        raise SystemExit(1) from None


@contextmanager
def started(
    size: int, act: Callable[..., Any], *arguments: Any, place: Callable[[int, int, int], dict[str, str]] = torchrun
) -> Iterator[list[tuple[Any, Any]]]:
    """Start the ranks of a world, each with the same call, and give a process and its answers for each; end them."""
    port, ranks = take_port(), []
    try:
        for rank in range(size):
            receive, send = CONTEXT.Pipe(duplex=False)
            process = CONTEXT.Process(target=_be_rank, args=(place(rank, size, port), send, act, arguments))
            process.start()
            send.close()
            ranks.append((process, receive))
        yield ranks
    finally:
        for process, _ in ranks:
            process.kill()
            process.join()


def on_ranks(size: int, act: Callable[..., Any], *arguments: Any, timeout_s: float = 120, **how: Any) -> list[Any]:
    """Return the result of a call on each rank of a world; raises its exception with the rank's traceback.

    Where one does not answer, all of them print to stderr where they stand.
    """
    with started(size, act, *arguments, **how) as ranks:
        answers = []
        for rank, (_, receive) in enumerate(ranks):
            if not receive.poll(timeout_s):
                for process, _ in ranks:
                    os.kill(process.pid, signal.SIGABRT)
                    process.join(5)
                raise AssertionError(f"rank {rank} has not answered in {timeout_s} s")
            done, answer = pickle.loads(receive.recv_bytes())
            assert done, f"rank {rank}: {answer}"
            answers.append(answer)
        return answers
