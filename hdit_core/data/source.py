"""Where images come from: a folder, an archive, a list, or a named set that some installed package offers.

A source lists its entries once and hands out their bytes by number. Names in it are text to show and to sort by, and
nothing is ever written under them.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from io import BufferedIOBase
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from hdit_core.data.manifest import Channels
from hdit_core.errors import DataError, UsageError, did_you_mean

NAMED_SETS = "hdit.sources"

LARGEST_FILE_BYTES = 1 << 29  # no image is this large; a video or an archive among them is not worth the memory


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a source."""

    name: str  # with forward slashes, relative to the source
    size_bytes: int
    changed_at: int = 0  # anything that changes when the file does
    problem: str | None = None  # why it cannot be read at all, such as being a link that leads elsewhere
    class_name: str | None = None  # where the source itself knows it, and not the folder it lies in


@runtime_checkable
class Source(Protocol):
    """Images to prepare."""

    @property
    def kind(self) -> str:
        """What it is: "folder", "zip", ..."""

    @property
    def name(self) -> str:
        """What it is called, without its path."""

    @property
    def channels(self) -> Channels | None:
        """Channels of its images, where the source knows them."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in the order of their numbers; () where it knows of none, None where folders are the classes."""

    @property
    def entries(self) -> Sequence[Entry]:
        """Its files, in the order of their numbers."""

    def fetch(self, number: int) -> bytes | Path:
        """Return the file of an entry without a problem, or the path to read it from; asked in ascending order.

        Raises:
            OSError, ValueError: it cannot be read.
        """


def _named_sets() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=NAMED_SETS)}


def _open_path(location: str, leave_out: Path | None) -> Source | None:
    from hdit_core.data.location import open_path
    from hdit_core.data.path_list import STDIN, open_stdin

    if location == STDIN:
        is_piped = sys.stdin is not None and not sys.stdin.isatty()
        return open_stdin(cast(BufferedIOBase, sys.stdin.buffer) if is_piped else None)
    try:
        return open_path(Path(location), leave_out)
    except OSError as problem:
        raise DataError(f"{problem.filename or location}: cannot be read ({problem.strerror or problem})") from None


def open_source(location: str, leave_out: Path | None = None) -> Source:
    """Open whatever holds images.

    Args:
        location: a folder (of images, of webdataset shards, of Parquet files, or a prepared data set), a zip, a tar
            (plain, gz, bz2, xz), a shard, a Parquet file, a pattern for some of the last two, a text file of paths,
            `-` for such a text on stdin, or the name of a set.
        leave_out: a file that is no input where it lies in the folder, such as the labels.

    Raises:
        UsageError: there is nothing of this name, or two things.
        DataError: it cannot be read, or a package that offers it is missing.
    """
    sets = _named_sets()
    if location in sets and Path(location).exists():
        raise UsageError(f"{location}: is a named set, and a file or folder here; write ./{location} for the latter")
    if location in sets:
        return sets[location].load()()
    source = _open_path(location, leave_out)
    if source is None:
        near = did_you_mean(location, sets) or f"; named sets: {', '.join(sets) or 'none'}"
        raise UsageError(f"{location}: no such folder, archive or named set{near}")
    return source
