"""Label files among the images of a folder or an archive.

dataset.json      of StyleGAN and EDM; if its "labels" are null, folders are not classes either
metadata.csv      of Hugging Face, or metadata.jsonl or metadata.parquet, if they have a column of labels
0001.cls          next to 0001.jpg, as in webdataset shards
"""

import csv
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hdit_core.data.sources.file_filter import common_folders, is_hidden
from hdit_core.data.sources.labels.label_notation import MOST_CLASSES, parse_class
from hdit_core.data.sources.labels.name_index import SharedNames
from hdit_core.data.sources.labels.tables import (
    csv_has_labels,
    find_columns,
    join,
    parquet_has_labels,
    read_json,
    read_rows,
)
from hdit_core.data.sources.labels.text_encoding import decode_text
from hdit_core.data.sources.source import IMAGE_SUFFIX, Entry, class_names
from hdit_core.errors import DataError

logger = logging.getLogger("hdit")

LARGEST_SIDECAR_BYTES = 1 << 30
LARGEST_CLS_BYTES = 1 << 20

_TABLES = ("dataset.json", "metadata.csv", "metadata.jsonl", "metadata.parquet")
_CLS = ".cls"
_UNREADABLE = (OSError, ValueError, RecursionError, csv.Error)


def is_label_file(name: str) -> bool:
    """Return whether a file may contain the labels of others, judged by its name."""
    last = name.rpartition("/")[2]
    return last in _TABLES or (last.endswith(_CLS) and not is_hidden(name))


@dataclass(frozen=True)
class SidecarLabels:
    """The inputs of a source with their classes."""

    entries: Sequence[Entry]
    numbers: Sequence[int]  # index of each entry among all files; -1 for a name without a file
    classes: tuple[str, ...]  # class names in index order


Read = Callable[[int], bytes]


def index_classes(labels: Sequence[str]) -> tuple[str, ...]:
    """Return class names in index order; labels that are numbers are the indices of their classes."""
    distinct = set(labels)
    if distinct and all(label.isdecimal() and label == str(int(label)) for label in distinct):
        highest = max(map(int, distinct))
        if highest < MOST_CLASSES:
            return tuple(map(str, range(highest + 1)))
    return class_names(distinct)


def _labelled(
    files: Sequence[Entry], inputs: Sequence[int], labels: Mapping[str, str], source_of_labels: str
) -> SidecarLabels:
    """Assign each input its class; inputs without one, and names without a file, are entries with a problem."""
    names = {files[number].name for number in inputs}
    entries, numbers = [], list(inputs)
    for number in inputs:
        file = files[number]
        label = labels.get(file.name)
        problem = file.problem or (None if label is not None else f"no label in {source_of_labels}")
        entries.append(replace(file, class_name=label, problem=problem))
    for name in sorted(labels.keys() - names):
        entries.append(Entry(name, 0, problem=f"named in {source_of_labels}, not found"))
        numbers.append(-1)
    return SidecarLabels(entries, numbers, index_classes(list(labels.values())))


def _table(files: Sequence[Entry], inputs: Sequence[int], label_files: Sequence[int]) -> int | None:
    """Return the file with the labels of all inputs, which is in a parent folder of all of them."""
    around = common_folders([files[number].name for number in inputs])
    found = {files[number].name: number for number in label_files}
    parts = around.split("/")
    for depth in range(len(parts)):
        folder = "".join(f"{part}/" for part in parts[:depth])
        for table in _TABLES:
            if folder + table in found:
                return found[folder + table]
    return None


def _has_labels(content: bytes, name: str, where: str) -> bool | None:
    """Return whether a table has labels; None if it states that there are none."""
    place = f"{where}: {name}"
    if name.endswith(".parquet"):
        return parquet_has_labels(content, place)
    text = decode_text(content)
    if name.endswith(".csv"):
        return csv_has_labels(text, place)
    if name.endswith(".jsonl"):
        rows = (json.loads(line) for line in text.split("\n") if line.strip())
        return any(isinstance(row, dict) and find_columns(list(row), place) for row in rows)
    document = read_json(text)
    if not isinstance(document, dict) or "labels" not in document:
        return False
    return None if document["labels"] is None else True


def _by_table(
    files: Sequence[Entry], inputs: Sequence[int], number: int, read: Read, where: str
) -> SidecarLabels | None:
    name = files[number].name
    place = f"{where}: {name}"
    if files[number].size_bytes > LARGEST_SIDECAR_BYTES:
        raise DataError(f"{place}: larger than {LARGEST_SIDECAR_BYTES >> 20} MiB, too large for a table of labels")
    try:
        content = read(number)
        has_labels = _has_labels(content, name, where)
    except _UNREADABLE as problem:
        raise DataError(f"{place}: cannot be read ({problem}); fix it, or choose the classes with --labels") from None
    if has_labels is None:
        return SidecarLabels([files[one] for one in inputs], list(inputs), ())
    if not has_labels:
        return None
    logger.info("%s: takes the classes from %s", where, name)
    labels = join(read_rows(content, name[name.rindex(".") :], place), [files[one].name for one in inputs], place)
    return _labelled(files, inputs, labels, name)


def _refuse_tables_of_a_part(files: Sequence[Entry], label_files: Sequence[int], read: Read, where: str) -> None:
    """Refuse tables of labels in subfolders: each is for its folder alone, and the subfolders would become classes."""
    for number in label_files:
        name, size_bytes = files[number].name, files[number].size_bytes
        try:
            has_labels = size_bytes <= LARGEST_SIDECAR_BYTES and _has_labels(read(number), name, where) is not False
        except _UNREADABLE:
            continue
        if has_labels:
            raise DataError(
                f"{where}: {name} has the labels of the images in its folder only; prepare that folder by itself, "
                "or choose the classes of all with --labels"
            )


def _cls_label(files: Sequence[Entry], number: int, read: Read) -> int | str:
    if files[number].size_bytes > LARGEST_CLS_BYTES:
        raise ValueError(f"{files[number].size_bytes:,} bytes")
    return parse_class(decode_text(read(number)))


def _by_cls(
    files: Sequence[Entry], inputs: Sequence[int], sidecars: Sequence[int], read: Read, where: str
) -> SidecarLabels:
    """Join each `.cls` to the image of the same name."""
    images = SharedNames(
        {files[number].name.rpartition(".")[0]: number for number in inputs if IMAGE_SUFFIX.search(files[number].name)}
    )
    found = [(one, images.find(files[one].name.removesuffix(_CLS))) for one in sidecars]
    joined = [(one, image) for one, image in found if image is not None]
    if not joined:
        raise DataError(
            f"{where}: its {len(sidecars):,} .cls files belong to none of its images: '{files[sidecars[0]].name}' "
            "needs an image of the same name; rename them, or choose the classes with --labels"
        )
    labels = {}
    for one, image in joined:
        try:
            labels[files[image].name] = str(_cls_label(files, one, read))
        except ValueError as problem:
            raise DataError(f"{where}: {files[one].name}: {problem}") from None
    return _labelled(files, inputs, labels, _CLS)


def label_by_sidecars(
    files: Sequence[Entry], inputs: Sequence[int], label_files: Sequence[int], read: Read, where: str
) -> SidecarLabels | None:
    """Return the inputs with the classes from label files among them; None if there are no label files.

    Args:
        files: all files of a source.
        inputs: indices of those that are inputs.
        label_files: indices of those that may contain labels.
        read: returns the content of a file by its index.
        where: name of the source in messages.

    Raises:
        DataError: labels cannot be read, or belong to no image.
    """
    table = _table(files, inputs, label_files)
    if table is not None and (labels := _by_table(files, inputs, table, read, where)):
        return labels
    sidecars = [number for number in label_files if files[number].name.endswith(_CLS)]
    if table is None and not sidecars:
        _refuse_tables_of_a_part(files, label_files, read, where)
    return _by_cls(files, inputs, sidecars, read, where) if sidecars else None
