"""Assigns each input its class: from the source, the folder, or a label file.

Folders are not always classes: those of FFHQ, StyleGAN and EDM are numbered, others are splits or sizes of one set.
"""

import logging
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hdit_core.data.format.shard import NO_LABEL
from hdit_core.data.prepare.label_files import read_classes, read_labels
from hdit_core.data.sources.file_filter import common_folders
from hdit_core.data.sources.files.entry_table import EntryTable, RowSequence, TextColumn
from hdit_core.data.sources.source import IMAGE_SUFFIX, Entry, Source, class_names
from hdit_core.errors import DataError

logger = logging.getLogger("hdit")

_NUMBERED = re.compile(r"([0-9]{5})/([0-9]{5})\.[a-z]+", re.IGNORECASE)
_EDM = re.compile(r"([0-9]{5})/img([0-9]{5})[0-9]{3}\.(png|npy)")
_FFHQ = {"images1024x1024", "thumbnails128x128", "in-the-wild-images"}
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def is_numbered(names: Iterable[str]) -> bool:
    """Return whether folders contain a thousand numbered files each.

    FFHQ has `01000/01234.png`, StyleGAN and EDM have `00001/img00001234.png`.
    """
    is_ffhq = is_edm = True
    for name in names:
        ffhq, edm = _NUMBERED.fullmatch(name), _EDM.fullmatch(name)
        is_ffhq = is_ffhq and ffhq is not None and int(ffhq[2]) // 1000 * 1000 == int(ffhq[1])
        is_edm = is_edm and edm is not None and edm[1] == edm[2]
        if not (is_ffhq or is_edm):
            return False
    return True


def check_folders(folders: Collection[str]) -> None:
    """Refuse to take folders as classes that contain a whole data set each.

    Raises:
        DataError: they are FFHQ's sizes, or a training set and its validation set.
    """
    names = {folder.lower() for folder in folders}
    if len(names & _FFHQ) > 1:
        raise DataError(
            f"the folders {', '.join(sorted(folders))} are FFHQ's images in several sizes; "
            "give one of them as the source, for example images1024x1024"
        )
    if len(names) > 1 and names <= _SPLITS:
        raise DataError(
            f"the folders {', '.join(sorted(folders))} are splits, not classes; "
            "give one of them as the source, or use --labels none"
        )


BY_FOLDER = "auto"
WITHOUT = "none"


@dataclass(frozen=True, slots=True)
class Input:
    """One input of the preparation, which becomes a sample or a reject."""

    name: str
    class_name: str | None = None
    problem: str | None = None


class InputTable(RowSequence[Input]):
    """Inputs, created on access."""

    def __init__(self, names: Sequence[str], about: Iterable[tuple[str | None, str | None]]) -> None:
        """Pack inputs.

        Args:
            names: names of all inputs.
            about: class name and problem of each.
        """
        self.names = names
        self.classes, self.problems = TextColumn(), TextColumn()
        for class_name, problem in about:
            self.classes.append(class_name)
            self.problems.append(problem)

    def about(self) -> Iterator[tuple[str | None, str | None]]:
        """Yield class name and problem of each."""
        return zip(self.classes, self.problems, strict=True)

    def __len__(self) -> int:
        return len(self.classes)

    def row(self, number: int) -> Input:
        """Return an input."""
        return Input(self.names[number], self.classes[number], self.problems[number])


def class_ids(inputs: InputTable, order: Sequence[str] | None = None) -> tuple[tuple[str, ...] | None, list[int]]:
    """Return the class names, None without classes, and the class index of each input.

    Args:
        order: the classes in index order, of which some may have no input; default: the sorted names.
    """
    names = inputs.classes.distinct
    classes = class_names(names) if order is None or not names else tuple(order)
    _warn_of_twins(classes)
    numbers = {name: number for number, name in enumerate(classes)}
    return classes or None, [NO_LABEL if name is None else numbers[name] for name in inputs.classes]


def _warn_of_twins(classes: Sequence[str]) -> None:
    """Warn about two classes whose names differ only in case or the encoding of accents: they may be one class."""
    first: dict[str, str] = {}
    for name in classes:
        twin = first.setdefault(unicodedata.normalize("NFC", name).strip().casefold(), name)
        if twin != name:
            logger.warning("the classes %r and %r differ only in case or spelling; they remain separate", twin, name)


def _only_known(inputs: InputTable, order: Sequence[str], where: str) -> InputTable:
    """Reject each input whose class is not in a list of classes."""
    known = {None, *order}
    about = (
        (name, problem) if name in known else (None, problem or _unknown(str(name), where))
        for name, problem in inputs.about()
    )
    return InputTable(inputs.names, about)


def _unknown(class_name: str, where: str) -> str:
    return f"its class {class_name!r} is not in {where}"


def _without_labels(entries: EntryTable) -> InputTable:
    return InputTable(entries.names, ((None, entry.problem) for entry in entries))


def _by_source(entries: EntryTable) -> InputTable:
    return InputTable(entries.names, ((entry.class_name, entry.problem) for entry in entries))


def _image_names(entries: EntryTable) -> Iterator[str]:
    """Yield the names with the suffix of an image; all names if there are none."""
    any_suffix = any(map(IMAGE_SUFFIX.search, entries.names))
    return (name for name in entries.names if not any_suffix or IMAGE_SUFFIX.search(name))


def _above_classes(folders: str, known: Collection[str]) -> str:
    """Return the common parent folders of all images, up to the last that is the name of a known class."""
    parts = folders.split("/")
    places = [place for place, part in enumerate(parts) if part in known]
    return "".join(f"{part}/" for part in parts[: places[-1]]) if places else folders


def _by_folder(entries: EntryTable, known: Collection[str]) -> InputTable:
    """Return inputs whose classes are their top folders, if all images are in such folders."""
    wrapping = _above_classes(common_folders(_image_names(entries)), known)

    def inside() -> Iterator[str]:  # generated each time, since a list of ten million takes a gigabyte
        return (name.removeprefix(wrapping) for name in _image_names(entries))

    count, loose = sum(1 for _ in inside()), sum("/" not in name for name in inside())
    if loose == count or is_numbered(inside()):
        return _without_labels(entries)
    if loose:
        first = next(name for name in inside() if "/" not in name)
        raise DataError(
            f"{loose:,} images such as '{wrapping}{first}' are next to {count - loose:,} in "
            "folders: they have no class; move them into a class folder, or use --labels none"
        )
    check_folders({name.split("/")[0] for name in inside()})
    return InputTable(entries.names, (_class_of_folder(entry, wrapping) for entry in entries))


def _readable(name: str) -> str:
    r"""Return a name in which bytes that are not UTF-8 are escaped, as in `caf\xe9`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _class_of_folder(entry: Entry, wrapping: str) -> tuple[str | None, str | None]:
    """Return the class and the problem of an entry."""
    inside = entry.name.removeprefix(wrapping)
    if "/" not in inside or not entry.name.startswith(wrapping):
        return None, entry.problem or "not in a class folder"
    return _readable(inside.split("/")[0]), entry.problem


def _by_file(entries: EntryTable, path: Path) -> InputTable:
    """Return inputs with the labels of a file; entries without a label and labels without an entry are rejects."""
    names = list(entries.names)
    labels = read_labels(path, names)
    unnamed = f"no label in {path.name}"
    about = [
        (labels.get(entry.name), entry.problem or (None if entry.name in labels else unnamed)) for entry in entries
    ]
    known = set(names)
    missing = [name for name in labels if name not in known]
    about += [(labels[name], f"named in {path.name}, not found") for name in missing]
    return InputTable(names + missing, about)


def label_entries(
    entries: Sequence[Entry], labels: str, by_source: bool = False, known: Collection[str] = ()
) -> InputTable:
    """Return the inputs: the entries in order, then names in the labels that are not in the source.

    Args:
        entries: entries of the source.
        labels: `"auto"` (the source's own classes, else class folders, if any), `"none"`, or a file of labels.
        by_source: the source itself has the classes of its entries, or has none.
        known: names of classes, so that a folder with one of them is a class even if it contains all images.

    Raises:
        UsageError, DataError: the labels cannot be read, or are ambiguous.
    """
    table = entries if isinstance(entries, EntryTable) else EntryTable(entries)
    if labels == WITHOUT:
        return _without_labels(table)
    if labels != BY_FOLDER:
        return _by_file(table, Path(labels))
    return _by_source(table) if by_source else _by_folder(table, known)


def label_source(
    source: Source, labels: str, classes: str | None = None
) -> tuple[InputTable, tuple[str, ...] | None, list[int]]:
    """Return the inputs of a source, the class names (None without classes) and the class index of each input.

    Args:
        source: source of the images.
        labels: as for `label_entries`.
        classes: value of `--classes`; None: the source's own list, else the sorted names of the classes found.

    Raises:
        UsageError, DataError: labels or classes cannot be read, or are ambiguous, or no image has a class of the list.
    """
    order = () if classes is None else read_classes(classes)
    inputs = label_entries(source.entries, labels, source.classes is not None, order)
    if classes is not None:
        if not inputs.classes.distinct:
            raise DataError(
                f"{source.name}: no image has a class for --classes {classes}; put the images into class folders, "
                "give their classes with --labels FILE, or leave --classes out"
            )
        inputs = _only_known(inputs, order, classes)
        return inputs, *class_ids(inputs, order)
    return inputs, *class_ids(inputs, source.classes if labels == BY_FOLDER else None)
