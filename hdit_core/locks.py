"""Advisory locks: one run, one sample folder, one chunk, one download at a time.

They are record locks on bytes of a file. The kernel releases them when the process that holds them ends, however it
ends, and NFS passes them between machines. The package `filelock` is no replacement: it uses flock, which forked
reader processes inherit, so that a killed run would stay locked; which some network file systems keep within one
machine; and which has no byte ranges.

A process that closes any descriptor of a file loses all its locks on that file: one descriptor per file and process.
"""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hdit_core.errors import UsageError

logger = logging.getLogger("hdit")

HELD = (BlockingIOError, PermissionError)  # systems report a lock held by another process by either
POLL_S = 0.02
SAY_AFTER_S = 3.0  # of waiting for another process, which is then reported
OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

Ranges = Sequence[tuple[int, int]]
"""First byte and number of bytes of each lock."""


class LockHeldError(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, ranges: Ranges = ((0, 1),), *, wait_s: float = 0.0) -> Iterator[int]:
    """Hold exclusive locks on bytes of a file while the body runs; yield the file's descriptor.

    The file and its folder are created if missing. If the file system has no locks, a warning is logged and the body
    runs without.

    Raises:
        LockHeldError: another process still holds one of the locks after `wait_s` seconds.
    """
    descriptor, _ = _open_locked(path, fcntl.LOCK_EX, ranges, wait_s)
    try:
        yield descriptor
    finally:
        _close(descriptor)


def _open_locked(path: Path, kind: int, ranges: Ranges, wait_s: float) -> tuple[int, bool]:
    """Return the descriptor of a locked file, and whether the file system has locks.

    The previous holder may have removed the file in the meantime; it is then created again.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, OPEN_FLAGS, 0o666)
        try:
            has_locks = all(_lock(descriptor, path, kind, start, length, wait_s) for start, length in ranges)
            if not _is_removed(descriptor):
                return descriptor, has_locks
        except BaseException:
            _close(descriptor)
            raise
        _close(descriptor)


def _close(descriptor: int) -> None:
    """Close a lock's file; a failing `close` is ignored, since the content does not matter."""
    with suppress(OSError):
        os.close(descriptor)


def _lock(descriptor: int, path: Path, kind: int, start: int, length: int = 1, wait_s: float = 0.0) -> bool:
    """Lock bytes and return True; return False if the file system has no locks."""
    began_at, is_said = time.monotonic(), False
    while True:
        try:
            fcntl.lockf(descriptor, kind | fcntl.LOCK_NB, length, start)
            return True
        except HELD:
            waited_s = time.monotonic() - began_at
            if waited_s >= wait_s:
                raise LockHeldError(path) from None
            if waited_s >= SAY_AFTER_S and not is_said:
                is_said = True
                logger.info("%s: waiting for another process of hdit that holds this lock", path)
        except OSError as error:
            if error.errno == errno.ESTALE:  # the file was removed on another machine: see `_is_removed`
                return True
            logger.warning(
                "%s: its file system has no locks (%s); make sure that no two processes of hdit write to it",
                path.parent,
                error.strerror,
            )
            return False
        time.sleep(POLL_S)


def _is_removed(descriptor: int) -> bool:
    try:
        return os.fstat(descriptor).st_nlink == 0
    except OSError as error:
        if error.errno != errno.ESTALE:  # as NFS reports it
            raise
        return True


class FolderLock:
    """One job's lock on a folder that several jobs may write to, from `acquire` to `release`.

    Locks on two bytes of an empty file, `.lock`: jobs share the first while they work, and each locks the second
    exclusively while it reads and writes the shared record. The last job removes the file.
    """

    NAME = ".lock"
    WORKING, RECORD = 0, 1  # bytes
    WAIT_S = 600.0  # a job holds the record for seconds; one that holds it this long hangs, or its machine is gone

    def __init__(self, folder: Path) -> None:
        """Set the folder; no file is touched before `acquire`."""
        self.folder, self.path = folder, folder / self.NAME
        self._descriptor: int | None = None
        self._has_locks = True

    def acquire(self) -> None:
        """Register this job as one that writes to the folder.

        Raises:
            UsageError: another job is finishing and does not end.
        """
        try:
            self._descriptor, self._has_locks = _open_locked(
                self.path, fcntl.LOCK_SH, ((self.WORKING, 1),), self.WAIT_S
            )
        except LockHeldError:
            raise self._stuck() from None

    def is_exclusive(self) -> bool:
        """Return whether no other job writes to the folder; if so, none can start before `release`.

        True if the file system has no locks.
        """
        try:
            self._lock(self.WORKING)
        except LockHeldError:
            return False
        return True

    @contextmanager
    def exclusive_section(self) -> Iterator[None]:
        """Hold the lock on the record while the body runs, so that no other job reads or writes it.

        Raises:
            UsageError: another job does not release it.
        """
        try:
            self._lock(self.RECORD, self.WAIT_S)
        except LockHeldError:
            raise self._stuck() from None
        try:
            yield
        finally:
            if self._descriptor is not None and self._has_locks:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, self.RECORD)

    def release(self) -> None:
        """Deregister this job; both locks end at once, so that one of two jobs is the last."""
        if self._descriptor is not None:
            if self.is_exclusive():
                self.path.unlink(missing_ok=True)
            _close(self._descriptor)
            self._descriptor = None

    def _lock(self, byte: int, wait_s: float = 0.0) -> None:
        assert self._descriptor is not None, "not acquired"
        self._has_locks = self._has_locks and _lock(self._descriptor, self.path, fcntl.LOCK_EX, byte, wait_s=wait_s)

    def _stuck(self) -> UsageError:
        return UsageError(
            f"{self.folder}: another hdit process has held its record for more than {self.WAIT_S:g} s; end that "
            f"process, or if there is none remove {self.path}, and rerun this command"
        )
