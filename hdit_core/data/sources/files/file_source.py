"""The base of folders, archives and lists: which of their files are inputs, and the label files among them."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hdit_core.data.format.manifest_entries import Channels
from hdit_core.data.sources.attachments import Attachments, Kind
from hdit_core.data.sources.file_filter import choose_inputs
from hdit_core.data.sources.files.entry_table import EntryTable
from hdit_core.data.sources.labels.name_index import SharedNames
from hdit_core.data.sources.labels.sidecars import is_label_file, label_by_sidecars
from hdit_core.data.sources.source import Entry, without_ending
from hdit_core.files import read_bytes

_TEXT_ENDING = ".txt"


class FileSource:
    """Files by name. A subclass sets `kind` and implements `_read`."""

    kind = "files"
    channels: Channels | None = None
    is_folder = False

    def __init__(self, name: str, files: Iterable[Entry], where: str, read_labels: bool = True) -> None:
        """Choose the inputs among the files, and read the label files among them.

        Args:
            name: name of the source.
            files: all files, in the order in which they can be read.
            where: name of the source in messages.
            read_labels: take the classes from label files among them.

        Raises:
            DataError: the labels cannot be read, or belong to no image.
        """
        self.name = name
        self._files = table = files if isinstance(files, EntryTable) else EntryTable(files)
        chosen = choose_inputs(table.names, where, self.is_folder)
        inputs = array("q", (number for number, is_input in enumerate(chosen) if is_input))
        self._numbers: Sequence[int] = inputs
        self.entries: Sequence[Entry] = table.take(inputs)
        self.classes: tuple[str, ...] | None = None
        label_files = [
            number for number, name in enumerate(table.names) if is_label_file(name) and table.problem(number) is None
        ]
        if not (read_labels and label_files):
            return
        labels = label_by_sidecars(table, inputs, label_files, self._text, where)
        if labels is not None:
            self._numbers, self.entries, self.classes = labels.numbers, labels.entries, labels.classes

    def _text(self, number: int) -> bytes:
        content = self._read(number)
        return read_bytes(content) if isinstance(content, Path) else content

    def _read(self, number: int) -> bytes | Path:
        """Return a file by its index among all files, or the path to read it from."""
        raise NotImplementedError

    def fetch(self, number: int) -> bytes | Path:
        """Return the content of an entry, or the path to read it from.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        return self._read(self._numbers[number])

    def attachments(self, kind: Kind, column: str | None = None) -> Attachments | None:
        """Return the captions in text files next to the images (`a.txt` for `a.jpg`); there is no other kind."""
        if kind != "caption" or column is not None:
            return None
        captions = _Captions(self._files, self.entries, self._read)
        return captions if captions.is_any else None


class _Captions:
    """Text files next to images."""

    name = "text files next to the images"

    def __init__(self, files: Sequence[Entry], entries: Sequence[Entry], read: Callable[[int], bytes | Path]) -> None:
        texts = SharedNames(
            {
                file.name[: -len(_TEXT_ENDING)]: number
                for number, file in enumerate(files)
                if file.name.endswith(_TEXT_ENDING) and file.problem is None
            }
        )
        self._files, self._read = files, read
        self._texts = [texts.find(without_ending(entry.name)) for entry in entries]
        self.is_any = any(text is not None for text in self._texts)

    def fetch(self, number: int) -> bytes | Path | None:
        """Return the caption of an entry, or the path to read it from."""
        text = self._texts[number]
        return None if text is None else self._read(text)

    def facts(self, number: int) -> Sequence[object]:
        """Return size and time of the text file of an entry."""
        text = self._texts[number] if number < len(self._texts) else None
        return () if text is None else (self._files[text].size_bytes, self._files[text].changed_at)
