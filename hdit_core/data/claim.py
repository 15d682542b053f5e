"""Who makes which pieces of a data set: a lock of one byte a piece, so that tasks share a folder and never a piece.

They are record locks, which the kernel takes back when a process ends, however it ends, and which network file systems
have: NFS hands them from machine to machine (flock holds within one machine only, on some). Processes that were
started by the holder do not inherit them.
"""

import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hdit_core.errors import UsageError

LOCK = "lock"


def _ranges(pieces: range) -> list[tuple[int, int]]:
    """Return first byte and number of bytes of each lock: one lock for pieces that lie together."""
    return [(pieces.start, max(1, len(pieces)))] if pieces.step == 1 else [(number, 1) for number in pieces]


def _lock(descriptor: int, pieces: range, folder: Path) -> None:
    try:
        for start, length in _ranges(pieces):
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError):  # both are how systems say that it is taken
        raise UsageError(
            f"{folder}: another hdit prepare-data is writing into it, the same images; wait for it, choose another "
            "--out, or give each its share with --task I/N"
        ) from None
    except OSError as problem:
        warnings.warn(
            f"{folder}: its file system has no locks ({problem.strerror}); let no two hdit prepare-data make the same "
            "images in it",
            stacklevel=2,
        )


@contextmanager
def claimed(folder: Path, journal: Path, pieces: range) -> Iterator[None]:
    """Keep other processes off these pieces while the body runs.

    Args:
        folder: of the data set, for the message.
        journal: where the lock file lies; made where it is not there.
        pieces: their numbers.

    Raises:
        UsageError: another process has one of them.
    """
    while True:
        journal.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(journal / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)) as file:
            _lock(file.fileno(), pieces, folder)
            if os.fstat(file.fileno()).st_nlink:  # else whoever held it has finished and removed it meanwhile
                yield
                return
