"""Errors that a user can fix. The message is one line: where, what was found, what was expected, how to fix it.

The command line prints the message without a traceback and exits with the `exit_code` of the class. Errors of the
caller's code stay ValueErrors.
"""

import difflib
from collections.abc import Iterable


class HditError(Exception):
    """The program cannot continue for an external reason."""

    exit_code = 1


class OtherRankFailed(HditError):
    """This rank ends because another one failed, which reports the reason."""


class UsageError(HditError):
    """The command was called with invalid arguments."""

    exit_code = 2


class RecipeError(UsageError):
    """The recipe is invalid; the message has one line per mistake."""


class DataError(HditError):
    """Images, shards or a data set are missing, damaged, or do not match their manifest."""

    exit_code = 3


class CheckpointError(HditError):
    """A checkpoint is missing, damaged, or belongs to another run."""

    exit_code = 4


class CheckpointWriteError(CheckpointError):
    """A checkpoint or weight file cannot be written: the disk is full, or writing fails."""

    exit_code = HditError.exit_code


class NumericalError(HditError):
    """A number is not finite."""

    exit_code = 5


class StoppedEarly(HditError):
    """The run was asked to stop; everything is saved, and rerunning the command resumes it."""

    exit_code = 75


class WaitInterrupted(BaseException):
    """A run was asked to stop while it waited for data; a BaseException, so `except Exception` does not catch it."""


def is_out_of_memory(problem: BaseException) -> bool:
    """Return whether an error means that memory ran out; torch has a special type only for GPUs."""
    return isinstance(problem, MemoryError) or "allocate memory" in str(problem) or "out of memory" in str(problem)


def first_line(problem: BaseException) -> str:
    """Return the first line of a library's message, cut to 200 characters; without a message, the error's type."""
    return str(problem).split("\n", 1)[0][:200] or type(problem).__name__


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as `"1 file"` or `"1,200 files"`; the plural ends in s, es or ies."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}{'es' if noun.endswith(('s', 'ch')) else 's'}"


def did_you_mean(found: str, valid: Iterable[str]) -> str:
    """Return `"; did you mean 'width'?"` for the valid word nearest to `found`; `""` if none is near."""
    near = difflib.get_close_matches(found, list(valid), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
