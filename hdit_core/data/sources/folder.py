"""A folder as a source: every file below it, by name, whatever order the file system lists them in."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from hdit_core.data.format.manifest import Channels
from hdit_core.data.image.decode import size_problem
from hdit_core.data.sources.source import Entry
from hdit_core.errors import DataError


def _link_problem(path: Path, root: Path) -> str | None:
    """Return why a link is not followed: what it leads to must be a file of the same folder."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return "a broken link"
    if not target.is_relative_to(root):
        return "a link that leads out of the folder"
    return "a link to a folder, which is listed under its own name" if target.is_dir() else None


def _entry(found: os.DirEntry[str], name: str, root: Path) -> Entry:
    problem = _link_problem(Path(found.path), root) if found.is_symlink() else None
    if problem:
        return Entry(name, 0, problem=problem)
    facts = found.stat()
    if not stat.S_ISREG(facts.st_mode):
        return Entry(name, 0, problem="not a regular file")
    return Entry(name, facts.st_size, facts.st_mtime_ns, size_problem(facts.st_size))


def _list(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listing:
            return list(listing)
    except OSError as problem:
        raise DataError(f"{folder}: cannot be listed ({problem.strerror}); make it readable, or move it away") from None


def _walk(root: Path) -> Iterator[Entry]:
    """Yield every file below a folder; links to folders are not followed, so there are no loops."""
    resolved, folders = root.resolve(), [(str(root), "")]
    while folders:  # a list and no recursion: folders may be nested deeper than calls
        folder, prefix = folders.pop()
        for item in _list(folder):
            if item.is_dir(follow_symlinks=False):
                folders.append((item.path, f"{prefix}{item.name}/"))
            else:
                yield _entry(item, f"{prefix}{item.name}", resolved)


class FolderSource:
    """All files below a folder; which of them are images is for their content to say."""

    kind = "folder"
    channels: Channels | None = None
    classes: tuple[str, ...] | None = None

    def __init__(self, path: Path, leave_out: Path | None = None) -> None:
        """List a folder.

        Args:
            path: the folder.
            leave_out: a file in it that is no input, such as the labels.

        Raises:
            DataError: it, or a folder in it, cannot be listed.
        """
        self.name = path.resolve().name
        self._root = path
        entries = sorted(_walk(path), key=lambda entry: entry.name)
        self.entries = [entry for entry in entries if not leave_out or not self._is(entry, leave_out)]

    def _is(self, entry: Entry, other: Path) -> bool:
        return entry.problem is None and entry.name.endswith(other.name) and (self._root / entry.name).samefile(other)

    def fetch(self, number: int) -> Path:
        """Return the path of an entry; whoever decodes it reads it."""
        return self._root / self.entries[number].name
