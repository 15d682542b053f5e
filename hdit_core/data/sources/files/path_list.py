"""A list of paths as a source: a text file with one path per line, or the output of `find` on stdin (also -print0)."""

import io
import os
import stat
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from urllib.parse import unquote

from hdit_core.data.image.decode import size_problem
from hdit_core.data.image.unusable import is_archive
from hdit_core.data.sources.files.entry_table import EntryTable
from hdit_core.data.sources.files.file_source import FileSource
from hdit_core.data.sources.labels.text_encoding import decode_text, marked_encoding
from hdit_core.data.sources.source import Entry
from hdit_core.errors import DataError, UsageError
from hdit_core.files import STDIN_NAME, naming

LIST_ENDINGS = (".txt", ".lst", ".list")
LONGEST_PATH_BYTES = 4096  # as in Linux
LARGEST_LIST_BYTES = 1 << 30
CHUNK_BYTES = 1 << 16

_PARQUET = b"PAR1"
_ALIKE = 16  # consecutive bytes of which every second one is zero


class _Rejoined(io.BufferedIOBase):
    """A file whose first chunk has already been read."""

    def __init__(self, head: bytes, file: BufferedIOBase) -> None:
        self._head, self._file = head, file

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the first chunk, then the rest."""
        head, self._head = self._head, b""
        return head or self._file.read(size)


def _separator(content: bytes) -> bytes:
    """Return the separator of paths: a zero byte if there is any, else the line ends."""
    if b"\0" in content:
        return b"\0"
    return b"\r" if b"\r" in content and b"\n" not in content else b"\n"


def _check_list(content: bytes, name: str) -> None:
    """Refuse a file that is not a list of paths, by its first bytes."""
    if (is_archive(content) or content.startswith(_PARQUET)) and name == STDIN_NAME:
        raise UsageError(
            "-: an archive on stdin, expected paths, one per line; images are read more than once and after an "
            "interruption: save the archive to a file and give that as SOURCE, for example photos.tar"
        )
    if is_archive(content) or content.startswith(_PARQUET):
        raise UsageError(f"{name}: is an archive, expected paths; give the path of the archive as the source")
    zeros = [content[first : first + 2 * _ALIKE : 2].count(0) for first in (0, 1)]
    if len(content) >= 2 * _ALIKE and sorted(zeros) == [0, _ALIKE]:
        raise DataError(f"{name}: looks like UTF-16 without a byte order mark; save it as UTF-8")


def _in_utf8(content: bytes, file: BufferedIOBase, name: str) -> BufferedIOBase:
    """Return a list in UTF-8; one with the byte order mark of another encoding is read as a whole."""
    if marked_encoding(content) is None:
        return _Rejoined(content, file)
    content += file.read(LARGEST_LIST_BYTES)
    try:
        return io.BytesIO(decode_text(content).encode())
    except ValueError as problem:
        raise DataError(f"{name}: cannot be read ({problem})") from None


def _lines(file: BufferedIOBase, name: str) -> Iterator[bytes]:
    """Yield the paths of a list, unchanged."""
    content = file.read(CHUNK_BYTES)
    file = _in_utf8(content, file, name)
    content = file.read(CHUNK_BYTES)
    _check_list(content, name)
    separator, read_bytes, rest = _separator(content), 0, b""
    while content:
        read_bytes += len(content)
        if len(content) == CHUNK_BYTES and not content.strip(separator):
            raise DataError(f"{name}: {CHUNK_BYTES:,} bytes without a path at byte {read_bytes:,}; is it a device?")
        *whole, rest = (rest + content).split(separator)
        yield from (line.removesuffix(b"\r") for line in whole) if separator == b"\n" else whole
        if len(rest) > LONGEST_PATH_BYTES or read_bytes > LARGEST_LIST_BYTES:
            break
        content = file.read(CHUNK_BYTES)
    if read_bytes > LARGEST_LIST_BYTES:
        raise DataError(f"{name}: more than {LARGEST_LIST_BYTES >> 20} MiB, too large for a list of paths")
    yield rest.removesuffix(b"\r") if separator == b"\n" else rest


def read_paths(file: BufferedIOBase, name: str) -> list[str]:
    """Return the paths of a list, without empty lines.

    Raises:
        UsageError: it is an archive.
        DataError: it is not a list of paths, or is empty.
    """
    paths = []
    for number, line in enumerate(_lines(file, name), 1):
        if len(line) > LONGEST_PATH_BYTES:
            raise DataError(f"{name}:{number}: longer than a path can be; expected one path per line")
        text = os.fsdecode(line)
        if text:
            paths.append(text)
    if not paths:
        raise DataError(f"{name}: is empty; expected one path per line")
    return paths


def _forms(path: str) -> Iterator[str]:
    """Yield the possible meanings of a line, starting with the line itself: backslashes, quotes, or addresses."""
    yield path
    bare = path.strip()
    for quote in "\"'":
        if len(bare) > 2 and bare[0] == bare[-1] == quote:
            bare = bare[1:-1]
    if bare.startswith("file:///"):
        bare = unquote(bare.removeprefix("file://"))
    yield bare
    yield bare.replace("\\", "/")


def _taken(paths: list[str]) -> Iterator[str]:
    """Yield the paths in order, and remove them from the list."""
    paths.reverse()
    while paths:
        yield paths.pop()


def _problem(status: os.stat_result) -> str | None:
    if stat.S_ISDIR(status.st_mode):
        return "a folder; list the files in it"
    return size_problem(status.st_size) if stat.S_ISREG(status.st_mode) else "not a regular file"


class PathListSource(FileSource):
    """The files in a list, sorted by name, since the order of `find` varies."""

    kind = "list"

    def __init__(self, name: str, paths: list[str], base: Path, read_labels: bool = True) -> None:
        """Look up the files of a list.

        Args:
            name: name of the list.
            paths: the paths in it; the Python list is emptied to free its memory.
            base: the folder that the paths are relative to.
            read_labels: take the classes from label files among them.

        Raises:
            DataError: none of them exists.
        """
        self._base = base
        files = EntryTable(map(self._entry, _taken(paths))).sorted_by_name()
        self._check_found(name, files)
        repeats = [number for number in range(1, len(files)) if files.name(number) == files.name(number - 1)]
        files = files.with_problem(repeats, "named twice in the list") if repeats else files
        super().__init__(name, files, name, read_labels)

    def _entry(self, path: str) -> Entry:
        """Return the file that a line means; if there is none, the reason is that of the unchanged line."""
        reason = ""
        for form in _forms(path):
            name = os.path.normpath(form)
            try:
                status = (self._base / name).stat()
            except (OSError, ValueError) as problem:  # the latter for a zero byte in a name
                reason = reason or getattr(problem, "strerror", None) or "not a path"
                continue
            return Entry(name, status.st_size, status.st_mtime_ns, _problem(status))
        return Entry(os.path.normpath(path), 0, problem=f"cannot be found: {reason}")

    def _check_found(self, name: str, files: EntryTable) -> None:
        if all((file.problem or "").startswith("cannot be found") for file in files):
            missing = files[0]
            raise DataError(
                f"{name}: none of its {len(files):,} paths can be found, such as '{missing.name}' "
                f"({missing.problem}); expected one path per line, relative to {self._base.resolve()}; "
                "labels belong in a table for --labels"
            )

    def _read(self, number: int) -> Path:
        """Return the path of a file; the decoder reads it."""
        return self._base / self._files.name(number)


def open_list(path: Path, read_labels: bool = True) -> PathListSource:
    """Open a text file of paths, which are relative to its folder.

    Raises:
        DataError: it is not a list of paths.
    """
    with naming(path), path.open("rb") as file:
        return PathListSource(path.name, read_paths(file, str(path)), path.parent, read_labels)


def open_stdin(file: BufferedIOBase | None, read_labels: bool = True) -> PathListSource:
    """Read a list from stdin; its paths are relative to the current folder.

    Args:
        file: stdin, None if it is closed or a terminal.
        read_labels: take the classes from label files among them.

    Raises:
        UsageError: nothing is piped into it.
        DataError: it is not a list of paths.
    """
    if file is None:
        raise UsageError("-: reads paths from stdin, and nothing is piped into it; for example: find photos | hdit ...")
    return PathListSource(STDIN_NAME, read_paths(file, STDIN_NAME), Path(), read_labels)
