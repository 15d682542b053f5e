"""Which class each input has: by its source, its folder, or a file of labels.

Folders are not always classes: FFHQ, StyleGAN and EDM number theirs, and others hold splits or sizes of one set.
"""

import logging
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hdit_core.data.format.shard import NO_LABEL
from hdit_core.data.prepare.label_files import read_classes, read_labels
from hdit_core.data.sources.file_filter import common_folders
from hdit_core.data.sources.source import IMAGE_SUFFIX, Entry, Source, class_names
from hdit_core.errors import DataError

logger = logging.getLogger("hdit")

_NUMBERED = re.compile(r"([0-9]{5})/([0-9]{5})\.[a-z]+", re.IGNORECASE)
_EDM = re.compile(r"([0-9]{5})/img([0-9]{5})[0-9]{3}\.(png|npy)")
_FFHQ = {"images1024x1024", "thumbnails128x128", "in-the-wild-images"}
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def is_numbered(names: Iterable[str]) -> bool:
    """Return whether folders hold a thousand numbered files each.

    FFHQ's are called `01000/01234.png`, those of StyleGAN and EDM `00001/img00001234.png`.
    """
    names = list(names)
    ffhq, edm = ([pattern.fullmatch(name) for name in names] for pattern in (_NUMBERED, _EDM))
    return all(match is not None and int(match[2]) // 1000 * 1000 == int(match[1]) for match in ffhq) or all(
        match is not None and match[1] == match[2] for match in edm
    )


def check_folders(folders: Collection[str]) -> None:
    """Refuse to take folders for classes that hold a whole data set each.

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
            "give one of them as the source, or use --labels none"
        )


BY_FOLDER = "auto"
WITHOUT = "none"


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
    names = {image.class_name for image in inputs if image.class_name is not None}
    classes = class_names(names) if order is None or not names else tuple(order)
    _warn_of_twins(classes)
    numbers = {name: number for number, name in enumerate(classes)}
    return classes or None, [NO_LABEL if image.class_name is None else numbers[image.class_name] for image in inputs]


def _warn_of_twins(classes: Sequence[str]) -> None:
    """Warn of two classes whose names differ in case or accents' encoding only: they may be one."""
    first: dict[str, str] = {}
    for name in classes:
        twin = first.setdefault(unicodedata.normalize("NFC", name).strip().casefold(), name)
        if twin != name:
            logger.warning("the classes %r and %r differ in case or spelling only; they are kept apart", twin, name)


def _only_known(inputs: Sequence[Input], order: Sequence[str], where: str) -> list[Input]:
    """Reject each input whose class is not in a list of classes."""
    known = set(order)
    return [
        image
        if image.class_name is None or image.class_name in known
        else replace(image, class_name=None, problem=image.problem or _unknown(image.class_name, where))
        for image in inputs
    ]


def _unknown(class_name: str, where: str) -> str:
    return f"its class {class_name!r} is not in {where}"


def _without_labels(entries: Sequence[Entry]) -> list[Input]:
    return [Input(entry.name, problem=entry.problem) for entry in entries]


def _by_source(entries: Sequence[Entry]) -> list[Input]:
    return [Input(entry.name, entry.class_name, entry.problem) for entry in entries]


def _by_folder(entries: Sequence[Entry]) -> list[Input]:
    """Return inputs whose classes are their top folders, if all images are in such folders."""
    names = [entry.name for entry in entries]
    images = [name for name in names if IMAGE_SUFFIX.search(name)] or names
    if not images:
        return _without_labels(entries)
    wrapping = common_folders(images)
    inside = [name.removeprefix(wrapping) for name in images]
    loose = [name for name in inside if "/" not in name]
    if len(loose) == len(images) or is_numbered(inside):
        return _without_labels(entries)
    if loose:
        raise DataError(
            f"{len(loose):,} images such as '{wrapping}{loose[0]}' lie next to {len(images) - len(loose):,} in "
            "folders: the former have no class; move them into a class folder, or use --labels none"
        )
    check_folders({name.split("/")[0] for name in inside})
    return [_input_in_folder(entry, wrapping) for entry in entries]


def _readable(name: str) -> str:
    r"""Return a name with bytes that are not UTF-8 escaped, as in `caf\xe9`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _input_in_folder(entry: Entry, wrapping: str) -> Input:
    inside = entry.name.removeprefix(wrapping)
    if "/" not in inside or not entry.name.startswith(wrapping):
        return Input(entry.name, problem=entry.problem or "not in a class folder")
    return Input(entry.name, _readable(inside.split("/")[0]), entry.problem)


def _by_file(entries: Sequence[Entry], path: Path) -> list[Input]:
    """Return inputs with the labels of a file; entries without a label and labels without an entry are rejects."""
    labels = read_labels(path, [entry.name for entry in entries])
    unnamed = f"no label in {path.name}"
    labelled = [
        Input(entry.name, labels.get(entry.name), entry.problem or (None if entry.name in labels else unnamed))
        for entry in entries
    ]
    names = {entry.name for entry in entries}
    return labelled + [
        Input(name, label, f"named in {path.name}, not found") for name, label in labels.items() if name not in names
    ]


def label_entries(entries: Sequence[Entry], labels: str, by_source: bool = False) -> list[Input]:
    """Return the inputs: the entries in their order, then names in the labels that are not in the source.

    Args:
        entries: of the source.
        labels: `"auto"` (the source's own classes, else class folders, if any), `"none"`, or a file of labels.
        by_source: the source itself knows which classes its entries have, or that they have none.

    Raises:
        UsageError, DataError: the labels cannot be read, or are ambiguous.
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
        UsageError, DataError: labels or classes cannot be read, or are ambiguous.
    """
    inputs = label_entries(source.entries, labels, source.classes is not None)
    if classes is not None:
        order = read_classes(classes)
        inputs = _only_known(inputs, order, classes)
        return inputs, *class_ids(inputs, order)
    return inputs, *class_ids(inputs, source.classes if labels == BY_FOLDER else None)
