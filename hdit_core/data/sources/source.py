"""The interface of sources: a folder, an archive, a list, or a named set that an installed package offers.

A source lists its entries once and returns their bytes by number. Names are text to show and to sort by; nothing is
ever written under them.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from hdit_core.data.format.manifest_entries import Channels
from hdit_core.data.format.retry_reads import is_storage_error, retry_transient


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a source."""

    name: str  # with forward slashes, relative to the source
    size_bytes: int
    changed_at: int = 0  # anything that changes when the file does
    problem: str | None = None  # why it cannot be read at all, such as being a link that leads elsewhere
    class_name: str | None = None  # if it is from the source itself, not from the folder


@runtime_checkable
class Source(Protocol):
    """Images to prepare."""

    @property
    def kind(self) -> str:
        """Kind of the source: "folder", "zip", ..."""

    @property
    def name(self) -> str:
        """Name of the source, without its path."""

    @property
    def channels(self) -> Channels | None:
        """Channels of its images, where the source knows them."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in index order; () if there are none, None if folders are the classes."""

    @property
    def entries(self) -> Sequence[Entry]:
        """Its files, in the order of their numbers."""

    def fetch(self, number: int) -> bytes | Path:
        """Return the content of an entry without a problem, or the path to read it from; called in ascending order.

        Raises:
            OSError, ValueError: it cannot be read.
        """


T = TypeVar("T")


def fetch(what: str, read: Callable[[], T]) -> T:
    """Return what a source or its attachments give for an entry; what may pass is tried again.

    Args:
        what: is read, for messages about errors that have no path.
        read: calls the source.

    Raises:
        ValueError: the reason why the entry cannot be used.
        StorageUnavailable, OSError: the storage fails; the entry may be intact.
    """
    try:
        return retry_transient(Path(what), read)
    except OSError as problem:
        if is_storage_error(problem):
            raise
        raise ValueError(str(problem)) from None


IMAGE_SUFFIX = re.compile(
    r"\.(png|jpe?g|jpe|jfif|webp|gif|bmp|dib|tiff?|p[bgpn]m|jp2|j2k|jpx|avif|mpo)$", re.IGNORECASE
)
_ENDING = re.compile(r"(?<=[^/])\.[a-z][a-z0-9]{0,4}$", re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


def without_ending(name: str) -> str:
    """Return a file name without its ending, by which files belong together: `a/b` for `a/b.jpg` and `a/b.npy`.

    An ending has up to five letters and digits and begins with a letter, so that `v1.5` and `img.0001` have none.
    """
    return _ENDING.sub("", name)


def class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct names in the order of their class numbers."""
    distinct = set(names)
    as_numbers = all(_WHOLE_NUMBER.fullmatch(name) for name in distinct)
    return tuple(sorted(distinct, key=int if as_numbers else None))
