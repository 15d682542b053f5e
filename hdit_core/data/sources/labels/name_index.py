"""Joins names in a table to files: names may lack folders or the suffix, or come from another system."""

import unicodedata
from collections import defaultdict
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


def _end_alike(one: str, other: str) -> bool:
    """Return whether one path is the end of the other, folder by folder."""
    return one == other or one.endswith(f"/{other.lstrip('/')}") or other.endswith(f"/{one.lstrip('/')}")


_FORMS: tuple[Callable[[str], str], ...] = (str, _stem, str.casefold, lambda name: _stem(name).casefold())


class NameIndex:
    """The files of a source, looked up by their names in a table."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._exact = set(self._names)
        self._by_form: dict[int, dict[str, list[str]]] = {}

    def _candidates(self, form: int) -> dict[str, list[str]]:
        """Return the files by the normalized last part of their name."""
        if form not in self._by_form:
            found = defaultdict(list)
            for name in self._names:
                found[_FORMS[form](normalize(name)).rpartition("/")[2]].append(name)
            self._by_form[form] = found
        return self._by_form[form]

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
            key = whole if form in (str, _stem) else whole.casefold()
            near = self._candidates(number).get(key.rpartition("/")[2], ())
            fitting = [name for name in near if _end_alike(form(normalize(name)), key)]
            same = [name for name in fitting if form(normalize(name)) == key]
            fitting = same if len(same) == 1 else fitting
            if len(fitting) > 1:
                raise AmbiguousNameError(f"'{wanted}' could be '{fitting[0]}' or '{fitting[1]}'")
            if fitting:
                return fitting[0]
        return None
