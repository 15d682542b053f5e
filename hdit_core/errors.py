"""What a user can mend: one line each that says where, what was found, what was expected and how to mend it.

The command line prints the message without a traceback and exits with the kind's `exit_code`; a programmer's mistake
stays a ValueError.
"""

import difflib
from collections.abc import Iterable


class HditError(Exception):
    """The run cannot go on for a reason that lies outside the program."""

    exit_code = 1


class OtherRankFailed(HditError):
    """This rank ends because another one failed, which reports the reason."""


class UsageError(HditError):
    """The command was given something that it cannot take."""

    exit_code = 2


class RecipeError(UsageError):
    """The recipe says something that it cannot say; the message has one line for every mistake in it."""


class DataError(HditError):
    """Images, shards or a data set are missing, damaged, or not what their manifest says."""

    exit_code = 3


class CheckpointError(HditError):
    """A checkpoint is missing, damaged, or belongs to another run."""

    exit_code = 4


class NumericalError(HditError):
    """A number that has to be finite is not."""

    exit_code = 5


class StoppedEarly(HditError):
    """The run was asked to stop; everything is saved, and the same command goes on from there."""

    exit_code = 75


def is_out_of_memory(problem: BaseException) -> bool:
    """Return whether an error of Python's or torch's says that memory ran out; torch has a type for GPUs alone."""
    return isinstance(problem, MemoryError) or "allocate memory" in str(problem) or "out of memory" in str(problem)


def did_you_mean(found: str, valid: Iterable[str]) -> str:
    """Return `"; did you mean 'width'?"` for the valid word nearest to `found`, or `""` where none is near."""
    near = difflib.get_close_matches(found, list(valid), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
