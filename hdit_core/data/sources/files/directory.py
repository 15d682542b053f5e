"""A folder as a source: every file below it, sorted by name."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from hdit_core.data.image.decode import size_problem
from hdit_core.data.sources.file_filter import is_hidden
from hdit_core.data.sources.files.entry_table import EntryTable
from hdit_core.data.sources.files.file_source import FileSource
from hdit_core.data.sources.source import Entry
from hdit_core.errors import DataError

LEADS_OUT = "a link to a target outside the folder"


def _link_problem(path: Path, root: Path) -> str | None:
    """Return the reason why a link is not followed: its target must be a file in the same folder."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return "a broken link"
    if not target.is_relative_to(root):
        return LEADS_OUT
    return "a link to a folder, which is listed under its own name" if target.is_dir() else None


def _entry(path: str, name: str, root: Path) -> Entry:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        if problem := _link_problem(Path(path), root):
            return Entry(name, 0, problem=problem)
        status = os.stat(path)  # noqa: PTH116
    if not stat.S_ISREG(status.st_mode):
        return Entry(name, 0, problem="not a regular file")
    return Entry(name, status.st_size, status.st_mtime_ns, size_problem(status.st_size))


def _list(folder: str, prefix: str) -> list[str]:
    """Return the names in a folder, with a slash after those of folders, in the order of the whole paths."""
    try:
        with os.scandir(folder) as listing:
            return sorted(f"{item.name}/" if item.is_dir(follow_symlinks=False) else item.name for item in listing)
    except OSError as problem:
        if is_hidden(prefix):  # it would contain no inputs
            return []
        raise DataError(f"{folder}: cannot be listed ({problem.strerror}); make it readable, or move it away") from None


def _walk(root: Path) -> Iterator[Entry]:
    """Yield every file below a folder, sorted by name; links to folders are not followed, which excludes loops."""
    resolved, start = root.resolve(), f"{root}/"
    folders = [("", iter(_list(str(root), "")))]
    while folders:  # a stack instead of recursion: folders may be nested deeper than Python's recursion limit
        prefix, names = folders[-1]
        name = next(names, None)
        if name is None:
            folders.pop()
        elif name.endswith("/"):
            folders.append((f"{prefix}{name}", iter(_list(f"{start}{prefix}{name[:-1]}", f"{prefix}{name}"))))
        else:
            yield _entry(f"{start}{prefix}{name}", f"{prefix}{name}", resolved)


def _check_links(path: Path, files: EntryTable) -> None:
    """Refuse a folder in which every file is a link to outside, as in a snapshot of the Hugging Face hub."""
    if files and all(files.problem(number) == LEADS_OUT for number in range(len(files))):
        raise DataError(
            f"{path}: its {len(files):,} files, such as {files[0].name}, are links to outside the folder, as in "
            f"a snapshot of the Hugging Face hub; copy it with its files: cp -rL '{path}' COPY"
        )


class FolderSource(FileSource):
    """All files below a folder; which of them are images is decided by their content."""

    kind = "folder"
    is_folder = True

    def __init__(self, path: Path, leave_out: Path | None = None, read_labels: bool = True) -> None:
        """List a folder.

        Args:
            leave_out: a file in it that is not an input, such as the labels.
            read_labels: take the classes from label files in it.

        Raises:
            DataError: it, or a folder in it, cannot be listed, or the labels in it cannot be used.
        """
        self._root = path
        files = EntryTable(file for file in _walk(path) if not leave_out or not self._is(file, leave_out))
        _check_links(path, files)
        super().__init__(path.resolve().name, files, str(path), read_labels)

    def _is(self, entry: Entry, other: Path) -> bool:
        return entry.problem is None and entry.name.endswith(other.name) and (self._root / entry.name).samefile(other)

    def _read(self, number: int) -> Path:
        """Return the path of a file; the decoder reads it."""
        return self._root / self._files.name(number)
