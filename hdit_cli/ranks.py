"""Which of a run's ranks tells people what has ended them all."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from hdit_core.errors import HditError, StoppedEarly

MAIN_RANK_WAIT_S = 4.0
OF_RANKS = {"WORLD_SIZE", "SLURM_STEP_NUM_TASKS"}  # one of them is set by torchrun or srun


@contextmanager
def main_rank_reports_first() -> Iterator[None]:
    """Leave to the main rank the line about what ends all ranks alike: a mistake in the recipe, or a request to stop.

    Once it has said so and ended, torchrun or srun ends the others, which wait a few seconds for that; if they ended
    before, it would be the one that is ended, without a word. A rank that still lives then speaks for itself, since the
    main one may not have met its mistake; of a request to stop all know. One that has lost another rank does not wait.
    """
    try:
        yield
    except HditError as error:
        if type(error) is not HditError and not is_main_rank():
            time.sleep(MAIN_RANK_WAIT_S)
            if isinstance(error, StoppedEarly):
                raise typer.Exit(error.exit_code) from None
        raise


def is_main_rank() -> bool:
    """Return whether this process is rank 0, or the only one; torch is imported only where a launcher set ranks."""
    if not OF_RANKS & os.environ.keys():
        return True
    from hdit_core.distributed import is_main_process

    return is_main_process()
