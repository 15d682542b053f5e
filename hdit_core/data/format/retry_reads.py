"""Retries for reads that fail temporarily, as on network file systems.

A transient error says nothing about the data, so it never marks an image as damaged. It never fails a run permanently
either: once the retries are used up, the run exits with code 75 and can be resumed.
"""

import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hdit_core.data.image.decode import read_file
from hdit_core.data.image.unusable import UnusableImageError
from hdit_core.errors import StoppedEarly

T = TypeVar("T")
logger = logging.getLogger("hdit")

PAUSES_S = (0.1, 1.0, 4.0, 10.0, 20.0, 30.0)
"""Pause before each retry: 65 s in total, longer than a usual failover of a file server."""


_NAMES = (
    "ESTALE", "EIO", "EREMOTEIO", "ETIMEDOUT", "ENOTCONN", "ESHUTDOWN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN",
    "ENETUNREACH", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "ECOMM", "EAGAIN", "EBUSY", "EMFILE", "ENFILE",
)  # fmt: skip
TRANSIENT_ERRNOS = frozenset(getattr(errno, name) for name in _NAMES if hasattr(errno, name))

_OF_THE_FILE = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
        errno.ENXIO, errno.ENODEV, errno.EINVAL,
    }
)  # fmt: skip


def is_storage_error(problem: BaseException) -> bool:
    """Return whether an error is of the disk or the machine, not of the file."""
    return isinstance(problem, OSError) and problem.errno is not None and problem.errno not in _OF_THE_FILE


class StorageUnavailable(StoppedEarly):
    """A file could not be read, even after all retries; rerun the same command to resume.

    Attributes:
        errno: of the last attempt, where the system reported it.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number


def retry_transient(
    path: Path,
    read: Callable[[], T],
    before_retry: Callable[[], object] = lambda: None,
) -> T:
    """Return the result of `read`, which is retried if it fails with a transient error.

    Args:
        path: the file, for the message.
        read: reads the file; it reopens it if `before_retry` has closed it.
        before_retry: called before each retry.

    Raises:
        StorageUnavailable: all attempts failed.
        OSError: the error is not transient.
    """
    for pause_s in (*PAUSES_S, None):
        try:
            return read()
        except OSError as error:
            if error.errno not in TRANSIENT_ERRNOS:
                raise
            where = Path(error.filename) if isinstance(error.filename, str) else path
            if pause_s is None:
                raise _unavailable(where, error) from None
            logger.warning("%s: cannot be read (%s); trying again in %g s", where, error.strerror, pause_s)
        before_retry()
        time.sleep(pause_s)
    raise AssertionError


def read_image_file(path: Path) -> bytes:
    """Return the content of a file that a user gave as an image; what may pass is tried again.

    Raises:
        UnusableImageError: it is missing, too large, or nobody may read it.
        StorageUnavailable, OSError: the storage fails; the file may be intact.
    """
    try:
        return retry_transient(path, lambda: read_file(path))
    except OSError as problem:
        if is_storage_error(problem):
            raise
        raise UnusableImageError(f"cannot be read: {problem.strerror or type(problem).__name__}") from None


def _unavailable(path: Path, error: OSError) -> StorageUnavailable:
    reason = error.strerror or type(error).__name__
    if error.errno in (errno.EMFILE, errno.ENFILE):
        message = f"{path}: {reason}; raise the limit with `ulimit -n 4096`, then run the same command"
        return StorageUnavailable(message, error.errno)
    return StorageUnavailable(
        f"{path}: cannot be read ({reason}), tried for {sum(PAUSES_S):.0f} s; check the disk or the network file "
        "system, then run the same command to resume",
        error.errno,
    )
