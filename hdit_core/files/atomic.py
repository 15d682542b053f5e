"""Atomic writes of files and folders.

A file is written to a temporary sibling, flushed to the disk and renamed. A kill at any moment leaves the old file or
the new one, and at worst a sibling whose name begins with `.tmp-`.
"""

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from hdit_core.files.content import naming, write_file

logger = logging.getLogger("hdit")

TEMPORARY = ".tmp-"
FOLDER_RENAME_REFUSED = {errno.ENOSYS, errno.ENOTSUP}
FOLDER_FLUSH_REFUSED = {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EACCES, errno.EPERM}


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


def _name_final(error: BaseException, temporary: Path, final: Path) -> None:
    """Let an error of a temporary file, or of a file in a temporary folder, name the path that was asked for."""
    if isinstance(error, OSError) and isinstance(error.filename, str | Path):
        path = Path(error.filename)
        if path.is_relative_to(temporary):
            error.filename, error.filename2 = str(final / path.relative_to(temporary)), None


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path`, or removed if the body fails.

    An existing file is replaced.
    """
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)  # a link that somebody put there would be followed
    try:
        with naming(path):
            yield temporary
        _flush_file(temporary)
        temporary.replace(path)
    except BaseException as error:
        _name_final(error, temporary, path)
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file atomically; an existing one is replaced."""
    with atomic_file(path) as temporary:
        write_file(temporary, content)


def remove_temporaries(folder: Path, name: str = "") -> None:
    """Remove the temporary files that killed writers left in a folder.

    Args:
        folder: the folder.
        name: of the files or folders that were written, which may begin the name of another; default: any.
    """
    own = re.compile(f"{re.escape(TEMPORARY + name)}-[0-9]+" if name else f"{re.escape(TEMPORARY)}.*", re.DOTALL)
    for left in [path for path in folder.glob(f"{TEMPORARY}*") if own.fullmatch(path.name)]:
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _rename_folder(temporary: Path, final: Path) -> None:
    try:
        temporary.rename(final)
    except OSError as error:
        if error.errno in FOLDER_RENAME_REFUSED:
            error.strerror = (
                f"{error.strerror}: its file system cannot rename folders, as gcsfuse without --rename-dir-limit; "
                "choose a folder on another one"
            )
        raise


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
        with naming(final):
            yield temporary
        for path in sorted(temporary.rglob("*"), reverse=True):
            (flush_folder if path.is_dir() else _flush_file)(path)
        flush_folder(temporary)
        _rename_folder(temporary, final)
    except BaseException as error:
        _name_final(error, temporary, final)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush_folder(final.parent)
