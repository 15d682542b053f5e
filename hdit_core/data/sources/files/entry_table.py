"""Entries of a source in packed columns: about 35 bytes each and the name, where Python objects take 300.

A list of ten million files fits into 2 GB with it. Entries are made when they are asked for.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from hdit_core.data.sources.source import Entry

_LOW = (1 << 64) - 1
_NONE = -1


class TextColumn(Sequence[str | None]):
    """Texts of which many are the same, or None: a number each."""

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
        """Each text once, in the order of its first appearance."""
        return self._distinct

    def number(self, row: int) -> int:
        """Return the place of a text in `distinct`, -1 for None."""
        return self._numbers[row]

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, row: int) -> str | None: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[str | None]: ...
    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        number = self._numbers[row]
        return None if number == _NONE else self._distinct[number]


class _Names(Sequence[str]):
    """Names joined in one piece of memory."""

    def __init__(self) -> None:
        self._joined = bytearray()
        self._ends = array("q", [0])

    def append(self, name: str) -> None:
        self._joined += name.encode(errors="surrogatepass")
        self._ends.append(len(self._joined))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def encoded(self, row: int) -> bytes:
        """Return a name in UTF-8; sorted by it, names have the order of their characters."""
        return bytes(self._joined[self._ends[row] : self._ends[row + 1]])

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...
    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        return self.encoded(row).decode(errors="surrogatepass")


class EntryTable(Sequence[Entry]):
    """Entries in packed columns, or some rows of another table."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Pack entries, in their order."""
        self._names = _Names()
        self._sizes = array("q")
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
        """Return some of the entries, without a copy of what is in them."""
        table = EntryTable.__new__(EntryTable)
        table.__dict__.update(self.__dict__)
        chosen = array("q", (self._rows[row] for row in rows))
        table._rows = self._rows if len(chosen) == len(self) and all(map(int.__eq__, chosen, self._rows)) else chosen
        return table

    def sorted_by_name(self) -> "EntryTable":
        """Return the entries sorted by name; those of one name stay in their order."""
        return self.take(sorted(range(len(self)), key=lambda row: self._names.encoded(self._rows[row])))

    def with_problem(self, rows: Iterable[int], problem: str) -> "EntryTable":
        """Return the entries, those of some rows replaced by a problem of the same name."""
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
        """Return why an entry cannot be read, None if it can."""
        return self._problems[self._rows[row]]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, row: int) -> Entry: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Entry]: ...
    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        at = self._rows[row]
        low, high = self._changed
        changed_at = (high[at] << 64 | low[at]) if high else low[at]
        return Entry(self._names[at], self._sizes[at], changed_at, self._problems[at], self._classes[at])

    def __iter__(self) -> Iterator[Entry]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return NotImplemented
        return all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class NameView(Sequence[str]):
    """The names of a table's entries."""

    def __init__(self, table: EntryTable) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...
    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        return self._table.name(row)

    def __iter__(self) -> Iterator[str]:
        return map(self._table.name, range(len(self)))
