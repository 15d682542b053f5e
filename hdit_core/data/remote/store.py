"""Files of remote stores, read through fsspec; each failure is retried as long as that may help.

A lost connection or an overloaded store says nothing about the data: it is retried for about a minute, then the run
ends with exit code 75 and can be resumed. A refusal (credentials, permissions) and wrong content are retried for a
second, then they are errors; a missing file is one at once.
"""

import errno
import logging
import re
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, TypeVar

from hdit_core.data.format import transient
from hdit_core.data.format.transient import StorageUnavailable
from hdit_core.errors import DataError, HditError, UsageError

T = TypeVar("T")
logger = logging.getLogger("hdit")

STORES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "https", "http", "memory")
"""The accepted protocols; fsspec has others, some of which run programs or read any file."""

ATTEMPTS = 3  # after a refusal, or with wrong content
CHUNK_BYTES = 4 << 20
LONGEST_REASON = 300

_REFUSED_ERRNOS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS)
_REFUSED_STATUS = (400, 401, 403)  # S3 answers HEAD with a bare 400 where a token has expired
_REFUSED_NAME = re.compile("Credential|Token|Profile|Auth|Region|Validation")


class WrongContentError(OSError):
    """A file is not the one that the manifest means."""


def open_store(address: str) -> Any:
    """Return the fsspec file system of a store; each process makes its own.

    Raises:
        UsageError: no store of a known kind, or a package for it is missing.
    """
    protocol = address.partition("://")[0]
    if protocol not in STORES or "::" in address:
        raise UsageError(
            f"data.path = '{address}': expected a folder, or an address that begins with one of "
            f"{', '.join(f'{store}://' for store in STORES)}"
        )
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UsageError(
            f"data.path = '{address}' needs fsspec, which is not installed; run: pip install 'hdit-toolkit[remote]'"
        ) from None
    try:
        return url_to_fs(address)[0]
    except ImportError as problem:
        raise UsageError(f"data.path = '{address}' needs a package that is not installed: {problem}") from None


def read_chunks(address: str, most_bytes: int) -> Iterator[bytes]:
    """Yield the content of a remote file.

    Raises:
        WrongContentError: it is longer than `most_bytes`.
    """
    left = most_bytes
    with open_store(address).open(address, "rb") as file:
        while chunk := file.read(min(CHUNK_BYTES, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise WrongContentError(f"has more than {most_bytes:,} bytes")
            yield chunk


def _response_code(problem: BaseException) -> str:
    """Return the code of a store's answer, such as `ExpiredToken`; empty if the error has none."""
    response = getattr(problem.__cause__ or problem, "response", None)
    error = response.get("Error") if isinstance(response, dict) else None
    return str(error.get("Code", "")) if isinstance(error, dict) else ""


def _reason(problem: BaseException) -> str:
    """Return what failed in one line."""
    text = " ".join(str(problem).split()) or "no message"
    return f"{_response_code(problem) or type(problem).__name__}: {text[:LONGEST_REASON]}"


def _is_refusal(problem: BaseException) -> bool:
    """Return whether a store refuses a request, or the request cannot be made: waiting would not help."""
    if isinstance(problem, OSError) and problem.errno is not None:
        return problem.errno in _REFUSED_ERRNOS
    status = getattr(problem, "status", getattr(problem, "status_code", None))
    return (
        isinstance(problem, PermissionError | ValueError | TypeError)
        or status in _REFUSED_STATUS
        or _REFUSED_NAME.search(type(problem).__name__) is not None
    )


def _attempts(problem: BaseException) -> int:
    if isinstance(problem, FileNotFoundError):
        return 1
    short = isinstance(problem, WrongContentError) or _is_refusal(problem)
    return ATTEMPTS if short else len(transient.PAUSES_S) + 1


def _failure(address: str, problem: BaseException, attempts: int) -> HditError:
    """Return the error that ends the attempts."""
    reason = _reason(problem)
    if isinstance(problem, FileNotFoundError):
        return DataError(f"{address}: not found ({reason}); check the address, or upload the data set again")
    if isinstance(problem, WrongContentError):
        return DataError(f"{address}: {problem}, {attempts} times; upload the data set again")
    if _is_refusal(problem):
        return DataError(
            f"{address}: the store refuses access ({reason}); check or renew the credentials and permissions, then "
            "run the same command"
        )
    return StorageUnavailable(
        f"{address}: cannot be fetched ({reason}), tried {attempts} times; check the network, then run the same "
        "command to resume"
    )


def _forget_store(address: str) -> None:
    """Let the next attempt make its connections and read the credentials anew."""
    open_store(address).clear_instance_cache()


def retry(address: str, act: Callable[[], T]) -> T:
    """Return the result of `act`, with further attempts where it fails.

    Args:
        address: of the file, for the messages.
        act: reads it.

    Raises:
        DataError: the file is missing, refused, or another than is wanted.
        StorageUnavailable: the store did not answer.
    """
    for attempt in count(1):
        try:
            return act()
        except HditError:
            raise
        except Exception as problem:  # every store has errors of its own
            if attempt >= _attempts(problem):
                raise _failure(address, problem, attempt) from None
            pause_s = transient.PAUSES_S[attempt - 1]
            logger.warning("%s: cannot be fetched (%s); trying again in %g s", address, _reason(problem), pause_s)
        _forget_store(address)
        time.sleep(pause_s)
    raise AssertionError
