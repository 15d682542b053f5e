"""The attachments of an entry of a source: condition image, vector, caption."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from hdit_core.data.sources.file_filter import common_folders
from hdit_core.data.sources.source import Entry, Source, without_ending

Kind = Literal["condition", "vector", "caption"]


@runtime_checkable
class Attachments(Protocol):
    """The attachments of one kind of all entries of a source."""

    @property
    def name(self) -> str:
        """Their origin, for messages."""

    def fetch(self, number: int) -> bytes | Path | None:
        """Return the attachment of an entry, or the path to read it from; None if the entry has none.

        A vector is float32, little-endian.

        Raises:
            OSError, ValueError: it cannot be read; the message describes it.
        """

    def facts(self, number: int) -> Sequence[object]:
        """Return what changes when the attachment of an entry does: sizes, times or checksums."""


@runtime_checkable
class AttachmentSource(Protocol):
    """A source that contains attachments."""

    def attachments(self, kind: Kind, column: str | None = None) -> Attachments | None:
        """Return its attachments of a kind, None if it has none.

        Args:
            kind: kind of the attachments.
            column: the column that contains them, for tables with named columns; otherwise None.
        """


def _shared_names(entries: Sequence[Entry]) -> list[str]:
    """Return the names by which files belong together; accents may be composed in one and not in the other."""
    return [unicodedata.normalize("NFC", without_ending(entry.name)) for entry in entries]


class PartnerFiles:
    """Condition images in a separate source: each has the name of its image, apart from the suffix."""

    def __init__(self, partners: Source, entries: Sequence[Entry], where: str) -> None:
        """Find the partner of each entry.

        Args:
            where: name of the condition images in messages.
        """
        self.name, self._partners = where, partners
        self._own, names = map(_shared_names, (entries, partners.entries))
        self._own_folders, self._folders = common_folders(self._own), common_folders(names)
        self._numbers: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            self._numbers.setdefault(name, []).append(number)

    def _number(self, number: int) -> int:
        """Return the index of the partner of an entry."""
        name = self._own[number] if number < len(self._own) else ""
        inside = self._folders + name.removeprefix(self._own_folders)  # an archive often wraps everything in a folder
        found = self._numbers.get(name) or self._numbers.get(inside) or []
        if not found:
            raise ValueError(f"no condition image of its name, '{name}.*', in {self.name}")
        if len(found) > 1:
            names = " and ".join(self._partners.entries[one].name for one in found[:2])
            raise ValueError(f"several condition images of its name in {self.name}: {names}")
        return found[0]

    def fetch(self, number: int) -> bytes | Path:
        """Return the condition image of an entry, or the path to read it from."""
        partner = self._number(number)
        if problem := self._partners.entries[partner].problem:
            raise ValueError(f"its condition image: {problem}")
        return self._partners.fetch(partner)

    def facts(self, number: int) -> Sequence[object]:
        """Return name, size and time of the condition image of an entry."""
        try:
            entry = self._partners.entries[self._number(number)]
        except ValueError as problem:
            return (str(problem),)
        return entry.name, entry.size_bytes, entry.changed_at
