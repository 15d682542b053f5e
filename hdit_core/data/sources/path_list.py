"""A list of paths as a source: a text file with one a line, or what `find` writes to stdin (newlines or -print0)."""

import os
import stat
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

from hdit_core.data.format.manifest import Channels
from hdit_core.data.image.decode import size_problem
from hdit_core.data.sources.source import Entry
from hdit_core.errors import DataError, UsageError

STDIN = "-"
LIST_ENDINGS = (".txt", ".lst", ".list")
LONGEST_PATH_BYTES = 4096  # as Linux has it
LARGEST_LIST_BYTES = 1 << 30
PIECE_BYTES = 1 << 16

_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"PAR1")


def _entries(file: BufferedIOBase, name: str) -> Iterator[bytes]:
    """Yield what lies between newlines, or between zeros where the list has any in its first 64 KiB."""
    content = file.read(PIECE_BYTES)
    if content.startswith(_ARCHIVES) or content[257:262] == b"ustar":
        raise UsageError(f"{name}: is an archive, expected paths; give the archive's own path as the source")
    separator, read_bytes, rest = b"\0" if b"\0" in content else b"\n", 0, b""
    while content:
        read_bytes += len(content)
        if len(content) == PIECE_BYTES and not content.strip(separator):
            raise DataError(f"{name}: {PIECE_BYTES:,} bytes without a path at byte {read_bytes:,}; is it a device?")
        *whole, rest = (rest + content).split(separator)
        yield from whole
        if len(rest) > LONGEST_PATH_BYTES or read_bytes > LARGEST_LIST_BYTES:
            break
        content = file.read(PIECE_BYTES)
    if read_bytes > LARGEST_LIST_BYTES:
        raise DataError(f"{name}: more than {LARGEST_LIST_BYTES >> 20} MiB, which no list of paths is")
    yield rest


def read_paths(file: BufferedIOBase, name: str) -> list[str]:
    """Return the paths of a list, without empty lines.

    Args:
        file: the list.
        name: what to call it in errors.

    Raises:
        UsageError: it is an archive.
        DataError: it is no list of paths, or names nothing.
    """
    paths = []
    for number, piece in enumerate(_entries(file, name), 1):
        if len(piece) > LONGEST_PATH_BYTES:
            raise DataError(f"{name}:{number}: longer than a path can be; expected one path a line")
        text = os.fsdecode(piece.removesuffix(b"\r"))
        if text:
            paths.append(text)
    if not paths:
        raise DataError(f"{name}: names no file; expected one path a line")
    return paths


def _problem(facts: os.stat_result) -> str | None:
    if stat.S_ISDIR(facts.st_mode):
        return "a folder; list the files in it"
    return size_problem(facts.st_size) if stat.S_ISREG(facts.st_mode) else "not a regular file"


class PathListSource:
    """The files that a list names, sorted by name: `find` gives them in another order each time."""

    kind = "list"
    channels: Channels | None = None
    classes: tuple[str, ...] | None = None

    def __init__(self, name: str, paths: list[str], base: Path) -> None:
        """Look up the files of a list.

        Args:
            name: of the list.
            paths: as they stand there.
            base: the folder that they are relative to.
        """
        self.name = name
        self._base = base
        names = sorted(os.path.normpath(path) for path in paths)
        self.entries = [self._entry(one, before == one) for one, before in zip(names, [None, *names], strict=False)]

    def _entry(self, name: str, is_again: bool) -> Entry:
        if is_again:
            return Entry(name, 0, problem="named twice in the list")
        try:
            facts = (self._base / name).stat()
        except (OSError, ValueError) as problem:  # the latter for a zero in a name
            reason = getattr(problem, "strerror", None) or "not a path"
            return Entry(name, 0, problem=f"cannot be found: {reason}")
        return Entry(name, facts.st_size, facts.st_mtime_ns, _problem(facts))

    def fetch(self, number: int) -> Path:
        """Return the path of an entry; whoever decodes it reads it."""
        return self._base / self.entries[number].name


def open_list(path: Path) -> PathListSource:
    """Open a text file of paths; they are relative to the folder it lies in.

    Raises:
        DataError: it is no list of paths.
    """
    with path.open("rb") as file:
        return PathListSource(path.name, read_paths(file, str(path)), path.parent)


def open_stdin(file: BufferedIOBase | None) -> PathListSource:
    """Read a list from stdin; its paths are relative to the current folder.

    Args:
        file: stdin, None where it is closed or a terminal.

    Raises:
        UsageError: nothing is piped into it.
        DataError: it is no list of paths.
    """
    if file is None:
        raise UsageError("-: reads paths from stdin, and nothing is piped into it; for example: find photos | hdit ...")
    return PathListSource("stdin", read_paths(file, "stdin"), Path())
