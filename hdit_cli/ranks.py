"""Chooses the rank that reports an error that ends all ranks."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from hdit_core.errors import HditError, OtherRankFailed, StoppedEarly
from hdit_core.launch import is_main_process

MAIN_RANK_WAIT_S = 4.0


def wait_for_main_rank() -> None:
    """Wait for the main rank to report: the launcher would end it if this one ended first."""
    time.sleep(MAIN_RANK_WAIT_S)


@contextmanager
def main_rank_reports_first() -> Iterator[None]:
    """Let only the main rank report an error that ends all ranks, such as a recipe error or a request to stop.

    The other ranks wait for a few seconds, until torchrun or srun ends them because the main rank has ended. If they
    ended first, the launcher would end the main rank before its report. A rank that is still alive then reports its own
    error, unless it is a request to stop or the failure of another rank. A rank that has lost another does not wait.
    """
    try:
        yield
    except HditError as error:
        if type(error) is not HditError and not is_main_process():
            wait_for_main_rank()
            if isinstance(error, StoppedEarly | OtherRankFailed):
                raise typer.Exit(error.exit_code) from None
        raise
