"""Joins names in a table to files: names may lack folders or the suffix, or come from another system."""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath


class AmbiguousNameError(ValueError):
    """A name matches several files."""


def normalize(name: str) -> str:
    """Return a name with forward slashes, composed accents, and without `./` and surrounding spaces."""
    path = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    return str(PurePosixPath(path)) if path else ""


class SharedNames:
    """Finds files by the names that they share with others; accents may be composed in one and not in the other."""

    def __init__(self, numbers: Mapping[str, int]) -> None:
        """Set the numbers of files by their names."""
        self._numbers = numbers
        self._composed: dict[str, list[int]] | None = None  # made when a name is not found as it is

    def find(self, name: str) -> int | None:
        """Return the number of the file of a name; None without one, or if several differ only in their accents."""
        if name in self._numbers:
            return self._numbers[name]
        if self._composed is None:
            self._composed = {}
            for each, number in self._numbers.items():
                self._composed.setdefault(unicodedata.normalize("NFC", each), []).append(number)
        found = self._composed.get(unicodedata.normalize("NFC", name), [])
        return found[0] if len(found) == 1 else None


def _stem(name: str) -> str:
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.rpartition('.')[0] or last}"


def _from_the_end(path: str) -> str:
    """Return a path with its last part first: `c/b/a/` for `a/b/c`, so that paths that end alike begin alike."""
    return "".join(f"{part}/" for part in reversed(path.lstrip("/").split("/")))


_FORMS: tuple[Callable[[str], str], ...] = (str, _stem, str.casefold, lambda name: _stem(name).casefold())


class NameIndex:
    """The files of a source, looked up by their names in a table."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._exact = set(self._names)
        self._sorted: dict[int, list[tuple[str, str]]] = {}

    def _by_form(self, number: int) -> list[tuple[str, str]]:
        """Return the normalized names in a form, from the end, and the files, sorted."""
        if number not in self._sorted:
            form = _FORMS[number]
            self._sorted[number] = sorted((_from_the_end(form(normalize(name))), name) for name in self._names)
        return self._sorted[number]

    def _fitting(self, number: int, key: str) -> list[str]:
        """Return the only file of a path, else up to two that end with it, and those with which it ends."""
        table, wanted = self._by_form(number), _from_the_end(key)
        fitting: list[str] = []
        for end in (wanted[: slash.end()] for slash in re.finditer("/", wanted)):
            place = bisect_left(table, (end,))
            near = [(path, name) for path, name in table[place : place + 2] if path.startswith(end)]
            same = [name for path, name in near if path == end]
            if not near:
                break
            if end == wanted:
                return same if len(same) == 1 else [name for _, name in near] + fitting
            fitting += same
        return fitting

    def find(self, wanted: str) -> str | None:
        """Return the file of a name: the same path, else the only path that ends with the name; None if there is none.

        Without its suffix a name is looked up as a whole, since `a.b` may be a complete name.

        Raises:
            AmbiguousNameError: several files match.
        """
        if wanted in self._exact:
            return wanted
        whole = normalize(wanted)
        for number, form in enumerate(_FORMS):
            fitting = self._fitting(number, whole if form in (str, _stem) else whole.casefold())
            if len(fitting) > 1:
                raise AmbiguousNameError(f"'{wanted}' could be '{fitting[0]}' or '{fitting[1]}'")
            if fitting:
                return fitting[0]
        return None
