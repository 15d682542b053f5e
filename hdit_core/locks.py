"""Who is at work in a folder of samples: several jobs may be, and what they have in common one at a time writes.

Record locks on two bytes of an empty file, `.lock`: each job shares the first while it draws, and has the second for
itself while it reads and writes the record. The kernel takes them back when a process ends, however it ends, and NFS
hands them from machine to machine (flock holds within one machine only, on some). Who is alone removes the file.
"""

import errno
import fcntl
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hdit_core.errors import UsageError

LOCK = ".lock"
AT_WORK, RECORD = 0, 1  # bytes
LONGEST_WAIT_S = 600.0  # a job has the record for seconds: who has it for longer is stopped, or gone with its machine
BETWEEN_S = 0.02
TAKEN = (BlockingIOError, PermissionError)  # both are how systems say that it is
NEW_OR_OLD = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class FolderLock:
    """One job's place in a folder, from `acquire` to `release`."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is touched yet."""
        self.folder, self.path = folder, folder / LOCK
        self._descriptor: int | None = None
        self._has_locks = True

    def acquire(self) -> None:
        """Say that a job is at work in the folder, which is there.

        Raises:
            UsageError: another job keeps it from that.
        """
        while self._descriptor is None:
            self._descriptor = os.open(self.path, NEW_OR_OLD, 0o666)
            self._wait(fcntl.LOCK_SH, AT_WORK)
            if self._is_gone():  # who was alone has removed it meanwhile
                self._close()

    def is_exclusive(self) -> bool:
        """Return whether no other job is at work; none begins then before `release`. True where there are no locks."""
        try:
            self._lock(fcntl.LOCK_EX, AT_WORK)
        except TAKEN:
            return False
        return True

    @contextmanager
    def exclusive_section(self) -> Iterator[None]:
        """Let nobody else read or write the record while the body runs.

        Raises:
            UsageError: another job does not let go of it.
        """
        self._wait(fcntl.LOCK_EX, RECORD)
        yield
        if self._descriptor is not None:
            self._lock(fcntl.LOCK_UN, RECORD)

    def release(self) -> None:
        """Say that the job is no longer at work; of both locks at once, so that one of two jobs is the last."""
        if self._descriptor is not None:
            if self.is_exclusive():
                self.path.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor = None

    def _is_gone(self) -> bool:
        assert self._descriptor is not None
        try:
            return os.fstat(self._descriptor).st_nlink == 0
        except OSError as problem:
            if problem.errno != errno.ESTALE:  # as NFS says it
                raise
            return True

    def _wait(self, kind: int, byte: int) -> None:
        give_up_at = time.monotonic() + LONGEST_WAIT_S
        while True:
            try:
                return self._lock(kind, byte)
            except TAKEN:
                if time.monotonic() > give_up_at:
                    raise UsageError(
                        f"{self.folder}: another hdit has been writing its record for more than {LONGEST_WAIT_S:g} s; "
                        f"end it, or where there is none remove {self.path}, and run this again"
                    ) from None
                time.sleep(BETWEEN_S)

    def _lock(self, kind: int, byte: int) -> None:
        assert self._descriptor is not None, "it was not taken"
        if not self._has_locks:
            return
        try:
            fcntl.lockf(self._descriptor, kind | (0 if kind == fcntl.LOCK_UN else fcntl.LOCK_NB), 1, byte)
        except TAKEN:
            raise
        except OSError as problem:
            if problem.errno == errno.ESTALE:
                return  # which `acquire` finds out
            self._has_locks = False
            warnings.warn(
                f"{self.folder}: its file system has no locks ({problem.strerror}); let no two hdit draw into it",
                stacklevel=2,
            )
