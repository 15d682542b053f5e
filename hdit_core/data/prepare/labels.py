"""Folders that are no classes, though images lie in them: the pieces of a numbered list, sizes, and splits."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hdit_core.data.format.shard import NO_LABEL
from hdit_core.data.prepare.label_files import read_classes, read_labels
from hdit_core.data.sources.source import IMAGE_SUFFIX, Entry, Source, class_names
from hdit_core.errors import DataError

_NUMBERED = re.compile(r"([0-9]{5})/([0-9]{5})\.[a-z]+")
_FFHQ = {"images1024x1024", "thumbnails128x128", "in-the-wild-images"}
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def is_numbered(names: Iterable[str]) -> bool:
    """Return whether folders hold a thousand numbered files each, as FFHQ's do: `01000/01234.png`."""
    matches = map(_NUMBERED.fullmatch, names)
    return all(match is not None and int(match[2]) // 1000 * 1000 == int(match[1]) for match in matches)


def check_folders(folders: Collection[str]) -> None:
    """Refuse folders of which each holds a whole data set, when they are about to be taken for classes.

    Raises:
        DataError: they are FFHQ's sizes, or a training set beside its validation set.
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
            "give one of them as the source, or say --labels none"
        )


BY_FOLDER = "auto"
WITHOUT = "none"
_NOT_A_CLASS = re.compile(r"(^|/)(\.[^/]*|__MACOSX)/")


@dataclass(frozen=True, slots=True)
class Input:
    """One input of the preparation: it becomes a sample or a reject."""

    name: str
    class_name: str | None = None
    problem: str | None = None


def class_ids(inputs: Sequence[Input], order: Sequence[str] | None = None) -> tuple[tuple[str, ...] | None, list[int]]:
    """Return the class names, None without classes, and the class number of each input.

    Args:
        inputs: with their classes.
        order: the classes in the order of their numbers, of which some may have no input; default: the sorted names.
    """
    found = {one.class_name for one in inputs if one.class_name is not None}
    classes = class_names(found) if order is None or not found else tuple(order)
    numbers = {name: number for number, name in enumerate(classes)}
    return classes or None, [NO_LABEL if one.class_name is None else numbers[one.class_name] for one in inputs]


def _only_known(inputs: Sequence[Input], order: Sequence[str], where: str) -> list[Input]:
    """Make a reject of each input whose class is not in a list of classes."""
    known = set(order)
    return [
        one
        if one.class_name is None or one.class_name in known
        else replace(one, class_name=None, problem=one.problem or f"its class {one.class_name!r} is not in {where}")
        for one in inputs
    ]


def _without_labels(entries: Sequence[Entry]) -> list[Input]:
    return [Input(entry.name, problem=entry.problem) for entry in entries]


def _by_source(entries: Sequence[Entry]) -> list[Input]:
    return [Input(entry.name, entry.class_name, entry.problem) for entry in entries]


def _common_folders(names: Sequence[str]) -> str:
    """Return the folders that all names lie in, as `"a/b/"`: an archive often wraps everything in one."""
    folders = [name.split("/")[:-1] for name in (min(names), max(names))]
    shared = 0
    while shared < min(map(len, folders)) and folders[0][shared] == folders[1][shared]:
        shared += 1
    return "".join(f"{folder}/" for folder in folders[0][:shared])


def _by_folder(entries: Sequence[Entry]) -> list[Input]:
    """Take the top folder of each entry for its class, where all images lie in such folders."""
    around = _common_folders([entry.name for entry in entries]) if entries else ""
    visible = [entry.name for entry in entries if not _NOT_A_CLASS.search(entry.name.removeprefix(around))]
    images = [name for name in visible if IMAGE_SUFFIX.search(name)] or visible
    if not images:
        return _without_labels(entries)
    wrapping = _common_folders(images)
    inside = [name.removeprefix(wrapping) for name in images]
    loose = [name for name in inside if "/" not in name]
    if len(loose) == len(images) or is_numbered(inside):
        return _without_labels(entries)
    if loose:
        raise DataError(
            f"{len(loose):,} images such as '{wrapping}{loose[0]}' lie beside {len(images) - len(loose):,} in folders: "
            "no class for the former; move them into a class folder, or say --labels none"
        )
    check_folders({name.split("/")[0] for name in inside})
    return [_input_in_folder(entry, wrapping, around) for entry in entries]


def _readable(name: str) -> str:
    r"""Return a name with the bytes that are not UTF-8 written out, as in `caf\xe9`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _input_in_folder(entry: Entry, wrapping: str, around: str) -> Input:
    if _NOT_A_CLASS.search(entry.name.removeprefix(around)):
        return Input(entry.name, problem=entry.problem or "in a hidden folder")
    inside = entry.name.removeprefix(wrapping)
    if "/" not in inside or not entry.name.startswith(wrapping):
        return Input(entry.name, problem=entry.problem or "not in a class folder")
    return Input(entry.name, _readable(inside.split("/")[0]), entry.problem)


def _by_file(entries: Sequence[Entry], path: Path) -> list[Input]:
    """Take labels from a file; entries that it does not name are rejects, and so are names that are no entry."""
    labels = read_labels(path, [entry.name for entry in entries])
    unnamed = f"no label in {path.name}"
    found = [
        Input(entry.name, labels.get(entry.name), entry.problem or (None if entry.name in labels else unnamed))
        for entry in entries
    ]
    names = {entry.name for entry in entries}
    return found + [
        Input(name, label, f"named in {path.name}, not found") for name, label in labels.items() if name not in names
    ]


def label_entries(entries: Sequence[Entry], labels: str, by_source: bool = False) -> list[Input]:
    """Return the inputs: the entries in their order, then what the labels name and the source does not hold.

    Args:
        entries: of the source.
        labels: `"auto"` (what the source says, else class folders, where there are), `"none"`, or a file of labels.
        by_source: the source itself says which classes its entries have, or that they have none.

    Raises:
        UsageError, DataError: the labels cannot be read, or leave it open which class an image has.
    """
    if labels == WITHOUT:
        return _without_labels(entries)
    if labels != BY_FOLDER:
        return _by_file(entries, Path(labels))
    return _by_source(entries) if by_source else _by_folder(entries)


def label_source(
    source: Source, labels: str, classes: str | None = None
) -> tuple[list[Input], tuple[str, ...] | None, list[int]]:
    """Return the inputs of a source, the class names (None without classes) and the class number of each input.

    Args:
        source: what holds the images.
        labels: as `label_entries` takes them.
        classes: what `--classes` names; None: the source's own list, else the sorted names of the classes found.

    Raises:
        UsageError, DataError: labels or classes cannot be read, or leave it open which class an image has.
    """
    inputs = label_entries(source.entries, labels, source.classes is not None)
    if classes is not None:
        order = read_classes(classes)
        inputs = _only_known(inputs, order, classes)
        return inputs, *class_ids(inputs, order)
    return inputs, *class_ids(inputs, source.classes if labels == BY_FOLDER else None)
