"""Entries of a source in packed columns: the name and about 35 bytes each; Python objects take 300.

A list of ten million files fits into 2 GB. Entries are created on access.
"""

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

from hdit_core.data.sources.source import Entry

_LOW = (1 << 64) - 1
_NONE = -1


T = TypeVar("T")


class RowSequence(Sequence[T]):
    """A sequence whose elements are created on access."""

    @abstractmethod
    def row(self, number: int) -> T:
        """Return the element at an index."""

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[T]: ...
    def __getitem__(self, number: int | slice) -> Any:
        if isinstance(number, slice):
            return [self.row(at) for at in range(*number.indices(len(self)))]
        return self.row(number)

    def __iter__(self) -> Iterator[T]:
        return map(self.row, range(len(self)))


class TextColumn(RowSequence[str | None]):
    """Texts, many of them equal, or None; each is stored as a number."""

    def __init__(self, texts: Iterable[str | None] = ()) -> None:
        self._numbers = array("i")
        self._distinct: list[str] = []
        self._by_text: dict[str, int] = {}
        for text in texts:
            self.append(text)

    def append(self, text: str | None) -> None:
        """Add a text at the end."""
        if text is None:
            self._numbers.append(_NONE)
            return
        number = self._by_text.setdefault(text, len(self._distinct))
        if number == len(self._distinct):
            self._distinct.append(text)
        self._numbers.append(number)

    @property
    def distinct(self) -> Sequence[str]:
        """The distinct texts, in the order of first appearance."""
        return self._distinct

    def __len__(self) -> int:
        return len(self._numbers)

    def row(self, number: int) -> str | None:
        """Return a text."""
        text = self._numbers[number]
        return None if text == _NONE else self._distinct[text]


class _Names(RowSequence[str]):
    """Names in one contiguous buffer."""

    def __init__(self) -> None:
        self._joined = bytearray()
        self._ends = array("q", [0])

    def append(self, name: str) -> None:
        self._joined += name.encode(errors="surrogatepass")
        self._ends.append(len(self._joined))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def encoded(self, row: int) -> bytes:
        """Return a name in UTF-8, whose order is that of the characters."""
        return bytes(self._joined[self._ends[row] : self._ends[row + 1]])

    def row(self, number: int) -> str:
        """Return a name."""
        return self.encoded(number).decode(errors="surrogatepass")


class EntryTable(RowSequence[Entry]):
    """Entries in packed columns, or a selection of another table."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Pack entries, in their order."""
        self._names = _Names()
        self._sizes = array("Q")
        self._changed = array("Q"), array("q")  # the lower and the upper 64 bits; in tars it has 96
        self._problems, self._classes = TextColumn(), TextColumn()
        self._rows: Sequence[int] = range(0)
        for entry in entries:
            self._append(entry)
        self._rows = range(len(self._sizes))

    def _append(self, entry: Entry) -> None:
        self._names.append(entry.name)
        self._sizes.append(entry.size_bytes)
        low, high = self._changed
        upper = entry.changed_at >> 64
        if upper and not high:
            high.extend([0] * len(low))
        low.append(entry.changed_at & _LOW)
        if high or upper:
            high.append(upper)
        self._problems.append(entry.problem)
        self._classes.append(entry.class_name)

    def take(self, rows: Iterable[int]) -> "EntryTable":
        """Return some of the entries, without copying them."""
        table = EntryTable.__new__(EntryTable)
        table.__dict__.update(self.__dict__)
        chosen = array("q", (self._rows[row] for row in rows))
        table._rows = self._rows if len(chosen) == len(self) and all(map(int.__eq__, chosen, self._rows)) else chosen
        return table

    def sorted_by_name(self) -> "EntryTable":
        """Return the entries sorted by name (a stable sort)."""
        return self.take(sorted(range(len(self)), key=lambda row: self._names.encoded(self._rows[row])))

    def with_problem(self, rows: Iterable[int], problem: str) -> "EntryTable":
        """Return the entries, with some replaced by a problem of the same name."""
        chosen = set(rows)
        return EntryTable(
            Entry(entry.name, 0, problem=problem) if row in chosen else entry for row, entry in enumerate(self)
        )

    @property
    def names(self) -> "NameView":
        """The names of the entries."""
        return NameView(self)

    def name(self, row: int) -> str:
        """Return the name of an entry."""
        return self._names[self._rows[row]]

    def problem(self, row: int) -> str | None:
        """Return the reason why an entry cannot be read, None if it can."""
        return self._problems[self._rows[row]]

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> Entry:
        """Return an entry."""
        at = self._rows[number]
        low, high = self._changed
        changed_at = (high[at] << 64 | low[at]) if high else low[at]
        return Entry(self._names[at], self._sizes[at], changed_at, self._problems[at], self._classes[at])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return NotImplemented
        return all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class NameView(RowSequence[str]):
    """The names of a table's entries."""

    def __init__(self, table: EntryTable) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def row(self, number: int) -> str:
        """Return a name."""
        return self._table.name(number)
