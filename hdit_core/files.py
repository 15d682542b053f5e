"""Atomic writes of files and folders, and checksums.

A file is written to a temporary sibling, flushed to the disk and renamed. A kill at any moment leaves the old file or
the new one, and at worst a sibling whose name begins with `.tmp-`.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hdit_core.errors import UsageError

logger = logging.getLogger("hdit")

TEMPORARY = ".tmp-"
CHUNK_BYTES = 1 << 20
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FOLDER_FLUSH_REFUSED = {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EACCES, errno.EPERM}


@dataclass(frozen=True)
class Digest:
    """Size and checksums of a file."""

    size_bytes: int
    crc32: int
    sha256: str

    def to_json(self) -> dict[str, int | str]:
        """Return it as a JSON object."""
        return asdict(self)


def cache_folder() -> Path:
    """Return where hdit keeps what it downloads or compiles: `hdit` under `$XDG_CACHE_HOME` or `~/.cache`.

    A user without a home folder (an arbitrary user id in a container) has a folder under the temporary one.
    """
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "hdit"
    try:
        return Path.home() / ".cache" / "hdit"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"hdit-{os.getuid()}"


class Digester:
    """Computes the digest of bytes that arrive in chunks."""

    def __init__(self) -> None:
        self._size_bytes, self._crc32, self._sha256 = 0, 0, hashlib.sha256()

    def add(self, chunk: bytes | memoryview) -> None:
        """Add the next bytes."""
        self._crc32 = zlib.crc32(chunk, self._crc32)
        self._sha256.update(chunk)
        self._size_bytes += len(chunk)

    def digest(self) -> Digest:
        """Return the digest of all bytes so far."""
        return Digest(self._size_bytes, self._crc32, self._sha256.hexdigest())


@runtime_checkable
class Writable(Protocol):
    """Anything that takes bytes: a file, a pipe, or a buffer."""

    def write(self, content: Any, /) -> object:
        """Write bytes."""


class DigestingWriter:
    """Writes to a file and computes its digest on the way."""

    def __init__(self, file: Writable) -> None:
        self._file: Writable | None = file
        self._digester = Digester()
        self.digest = self._digester.digest

    def write(self, content: bytes | memoryview) -> None:
        """Write bytes, in chunks that stay in the processor's cache."""
        if self._file is None:
            return
        for begin in range(0, len(content), CHUNK_BYTES):
            chunk = content[begin : begin + CHUNK_BYTES]
            self._file.write(chunk)
            self._digester.add(chunk)

    def discard(self) -> None:
        """Ignore what is written from now on: the file is given up, and may be closed already."""
        self._file = None


def digest(path: Path) -> Digest:
    """Read a file once and return its size and checksums."""
    digester = Digester()
    with naming(path), path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digester.add(chunk)
    return digester.digest()


def crc32(path: Path) -> int:
    """Return a file's crc32, which is ten times as fast as its sha256."""
    crc = 0
    with naming(path), path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    return crc


def read_json(path: Path, largest_bytes: int) -> dict[str, Any]:
    """Return the JSON object in an untrusted file.

    Raises:
        ValueError: the file is larger, or is not a JSON object; the message is the reason, without the path.
        OSError: the file is missing or cannot be read.
    """
    with naming(path), path.open("rb") as file:
        content = file.read(largest_bytes + 1)
    if len(content) > largest_bytes:
        raise ValueError(f"larger than {largest_bytes:,} bytes")
    try:
        record = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it contains {name}, which JSON does not have")


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, so that they survive a power failure.

    Some file systems (CIFS, sshfs) refuse that; it is then logged, and the names are written when the system does so.
    """
    with naming(folder):
        try:
            _flush(folder, os.O_RDONLY)
        except OSError as error:
            if error.errno not in FOLDER_FLUSH_REFUSED:
                raise
            _log_refused_flush(error.strerror or str(error))


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@cache  # once per process
def _log_refused_flush(reason: str) -> None:
    logger.info("the file system cannot flush folders (%s); a power failure may lose the newest files", reason)


def check_output(option: str, path: Path | None, *endings: str, new: bool = False) -> None:
    """Refuse, before any work, a file that cannot be written.

    Args:
        option: names the file, for the message.
        path: None if the option was not given.
        endings: allowed endings of the name, lower case; none: any.
        new: whether an existing file is never replaced; the folder of a new file is created, others must exist.

    Raises:
        UsageError: the name has another ending, the file exists, or its folder does not.
    """
    if path is None:
        return
    if endings and path.suffix.lower() not in endings:
        raise UsageError(f"{option} {path}: expected a name that ends in {' or '.join(endings)}")
    if new and (path.exists() or path.is_symlink()):
        raise UsageError(f"{option} {path}: already exists and is never replaced; choose another name")
    if path.is_dir():
        raise UsageError(f"{option} {path}: is a folder; give the name of a file")
    if not new and not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}; create it, or choose another name")


@contextmanager
def naming(path: Path, errnos: Container[int] | None = None) -> Iterator[None]:
    """Add the path to an OSError of the body that has none: `write`, `fsync` and others fail without one.

    Args:
        path: what the body works on.
        errnos: only these errors, if the body also works on other files.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None and (errnos is None or error.errno in errnos):
            error.filename = str(path)
        raise


def forget_cached(path: Path) -> None:
    """Make the system read a flushed file from the disk, not from memory, when it is read next."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")


def _flush_file(path: Path) -> None:
    with naming(path):
        _flush(path, os.O_RDWR)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; what the body writes there becomes `path`, or is removed if the body fails.

    An existing file is replaced.
    """
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)  # a link that somebody put there would be followed
    try:
        with naming(path, DISK_FULL):
            yield temporary
        _flush_file(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file atomically; an existing one is replaced."""
    with atomic_file(path) as temporary, naming(path):
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_temporaries(folder: Path, name: str = "") -> None:
    """Remove the temporary files that killed writers of this name (default: any) left in a folder."""
    for left in folder.glob(f"{TEMPORARY}{name}*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `final` when the body succeeds, and is removed when it fails.

    Raises:
        FileExistsError: `final` exists.
    """
    if final.exists():
        raise FileExistsError(final)
    temporary = _temporary(final)
    remove_temporaries(final.parent, final.name)
    temporary.mkdir(parents=True)
    try:
        with naming(final, DISK_FULL):
            yield temporary
        for path in sorted(temporary.rglob("*"), reverse=True):
            (flush_folder if path.is_dir() else _flush_file)(path)
        flush_folder(temporary)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush_folder(final.parent)
