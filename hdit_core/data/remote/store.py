"""Files of remote stores, read through fsspec; failures are retried as long as that can help.

A lost connection or an overloaded store says nothing about the data: it is retried for about a minute, then the run
ends with exit code 75 and can be resumed; so is an error of a kind that is not known. Wrong content is retried for a
second. What waiting cannot change is an error at once: a missing file, an invalid request or configuration, and a
refusal, after one more attempt with new credentials.
"""

import errno
import logging
import re
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Literal, TypeVar

from hdit_core.data.format import retry_reads
from hdit_core.data.format.retry_reads import StorageUnavailable
from hdit_core.errors import DataError, HditError, UsageError

T = TypeVar("T")
logger = logging.getLogger("hdit")

STORES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "https", "http", "memory")
"""The accepted protocols; fsspec has others, some of which run programs or read any file."""

CHUNK_BYTES = 4 << 20
LONGEST_REASON = 300

Kind = Literal["missing", "wrong content", "refused", "invalid", "unavailable"]
"""The kind of a failure: of the file, its content, the credentials, the request, or the store."""

ATTEMPTS: dict[Kind, int] = {"missing": 1, "wrong content": 3, "refused": 2, "invalid": 1}
"""Maximum number; the second one after a refusal reads the credentials again, which may have been renewed."""

_REFUSED_STATUS = (400, 401, 403)  # S3 answers HEAD with only status 400 if a token has expired
_REFUSED_NAME = re.compile("Access|Auth|Credential|Expired|Profile|Signature|Token|^[0-9]*$")
_PASSING_CODE = re.compile("SlowDown|Throttl|Timeout")  # S3 sends RequestTimeout with status 400
_PASSING_STATUS = (408, 409, 412, 423, 425, 429)  # of 300 to 499: the next attempt may be answered
_INVALID_STATUS = (501, 505)  # of 500 to 599: the store does not do what is asked
_INVALID_ERRNOS = (errno.EINVAL, errno.ENOSYS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)
_INVALID_NAME = re.compile(
    "Certificate|Config|HeaderMalformed|InvalidEndpoint|InvalidURL|Region|UnknownEndpoint|Validation"
)
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"  # in OpenSSL's messages


class WrongContentError(OSError):
    """A file differs from the manifest."""


def open_store(address: str) -> Any:
    """Return the fsspec file system of a store; each process makes its own.

    Raises:
        UsageError: the kind of store is unknown, or a package for it is missing.
    """
    protocol = address.partition("://")[0]
    if protocol not in STORES or "::" in address:
        raise UsageError(
            f"data.path = '{address}': expected a folder, or an address starting with one of "
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


def _response(problem: BaseException) -> dict[str, Any]:
    """Return a store's answer as botocore keeps it; empty if the error has none."""
    response = getattr(problem.__cause__ or problem, "response", None)
    return response if isinstance(response, dict) else {}


def _response_code(problem: BaseException) -> str:
    """Return the error code in a store's response, such as `ExpiredToken`; empty if there is none."""
    error = _response(problem).get("Error")
    return str(error.get("Code", "")) if isinstance(error, dict) else ""


def _status(problem: BaseException) -> int | None:
    """Return the HTTP status of a store's answer; None if there was none, or the error does not say."""
    metadata = _response(problem).get("ResponseMetadata")
    response = getattr(problem, "response", None)
    values = [metadata.get("HTTPStatusCode") if isinstance(metadata, dict) else None]
    values += [getattr(source, name, None) for source in (problem, response) for name in ("status", "status_code")]
    values += [getattr(problem, "code", None)]
    return next((int(str(value)) for value in values if str(value).isdecimal()), None)


def _reason(problem: BaseException) -> str:
    """Return the failure in one line."""
    text = " ".join(str(problem).split()) or "no message"
    return f"{_response_code(problem) or type(problem).__name__}: {text[:LONGEST_REASON]}"


def _kind(problem: BaseException) -> Kind:
    """Return the kind of a failure; an unknown one counts as unavailable, which is retried for longest."""
    status, name, code = _status(problem), type(problem).__name__, _response_code(problem)
    if isinstance(problem, WrongContentError):
        return "wrong content"
    if isinstance(problem, FileNotFoundError):
        return "missing"
    if _PASSING_CODE.search(code):
        return "unavailable"
    if _INVALID_NAME.search(f"{name} {code}") or _UNTRUSTED in str(problem):
        return "invalid"
    if status in _REFUSED_STATUS and _REFUSED_NAME.search(code):
        return "refused"
    if status is not None:
        passing = status < 300 or status in _PASSING_STATUS or (status >= 500 and status not in _INVALID_STATUS)
        return "unavailable" if passing else "invalid"
    if isinstance(problem, PermissionError) or _REFUSED_NAME.search(name):
        return "refused"
    if isinstance(problem, ValueError | TypeError) or getattr(problem, "errno", None) in _INVALID_ERRNOS:
        return "invalid"
    return "unavailable"


def _failure(address: str, problem: BaseException, attempts: int) -> HditError:
    """Return the error to raise after the last attempt."""
    reason = _reason(problem)
    match _kind(problem):
        case "missing":
            return DataError(f"{address}: not found ({reason}); check the address, or upload the data set again")
        case "wrong content":
            return DataError(f"{address}: {problem}, {attempts} times; upload the data set again")
        case "refused":
            return DataError(
                f"{address}: the store refuses access ({reason}); check or renew the credentials and permissions, "
                "then run the same command"
            )
        case "invalid":
            return DataError(
                f"{address}: cannot be requested ({reason}); check the address and the configuration of the store"
            )
    return StorageUnavailable(
        f"{address}: cannot be fetched ({reason}), tried {attempts} times; check the network, then run the same "
        "command to resume"
    )


def _forget_store(address: str) -> None:
    """Drop connections and credentials, so that the next attempt opens and reads them again."""
    open_store(address).clear_instance_cache()


def retry(address: str, act: Callable[[], T]) -> T:
    """Return the result of `act`, which is retried if it fails.

    Args:
        address: address of the file, for the messages.
        act: reads the file.

    Raises:
        DataError: the file is missing, refused, or differs from the manifest.
        StorageUnavailable: the store did not answer.
    """
    for attempt in count(1):
        try:
            return act()
        except HditError:
            raise
        except Exception as problem:  # every store has its own error types
            kind = _kind(problem)
            if attempt >= ATTEMPTS.get(kind, len(retry_reads.PAUSES_S) + 1):
                raise _failure(address, problem, attempt) from None
            pause_s = retry_reads.PAUSES_S[attempt - 1]
            if kind != "refused":
                logger.warning("%s: cannot be fetched (%s); trying again in %g s", address, _reason(problem), pause_s)
        _forget_store(address)
        time.sleep(pause_s)
    raise AssertionError
