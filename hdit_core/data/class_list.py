"""`--classes`: which classes there are and in which order, where that is not for the images at hand to say.

A validation set gets the numbers of its training set by naming that; ImageNet's thousand classes come with hdit.
"""

import json
import re
from pathlib import Path

from hdit_core.data.manifest import MANIFEST, read_manifest
from hdit_core.errors import DataError, UsageError

IMAGENET = "imagenet"
IMAGENET_LIST = Path(__file__).with_name("imagenet_classes.txt")
LARGEST_LIST_BYTES = 1 << 26

_WNID_LINE = re.compile(r"(n[0-9]{8})(\s|$)")


def _of_text(path: Path) -> list[str]:
    """Return the classes of a list with one a line: its first word where each line begins with a wnid, else all."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    wnids = [match[1] for line in lines if (match := _WNID_LINE.match(line))]
    return wnids if len(wnids) == len(lines) else lines


def _of_json(path: Path) -> list[str]:
    """Return the classes of a JSON list, or of an object {"0": ["n01440764", "tench"], ...} such as Keras has."""
    document = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(document, dict):
        document = [document.get(str(number)) for number in range(len(document))]
    first = [one[0] if isinstance(one, list) and one else one for one in document] if document else []
    if not isinstance(document, list) or not all(isinstance(name, str) for name in first):
        raise DataError(f'{path}: expected a list of class names, or {{"0": ["n01440764", "tench"], "1": ...}}')
    return first


def _of_data_set(folder: Path) -> list[str]:
    classes = read_manifest(folder).contents.classes
    if classes is None:
        raise DataError(f"{folder}: is a data set without classes; leave --classes out, or name one with classes")
    return list(classes)


def _of_file(path: Path) -> list[str]:
    if path.stat().st_size > LARGEST_LIST_BYTES:
        raise DataError(f"{path}: larger than {LARGEST_LIST_BYTES >> 20} MiB, which no list of classes is")
    try:
        return _of_json(path) if path.suffix.lower() == ".json" else _of_text(path)
    except (ValueError, TypeError, RecursionError) as problem:
        raise DataError(f"{path}: cannot be read as a list of classes ({problem})") from None


def read_classes(location: str) -> tuple[str, ...]:
    """Return class names in the order of their numbers.

    Args:
        location: `imagenet`; a prepared data set; or a file: one class a line, or JSON.

    Raises:
        UsageError: there is nothing of this name.
        DataError: it cannot be read, is empty, or has a class twice.
    """
    path = Path(location)
    if location == IMAGENET:
        classes = _of_file(IMAGENET_LIST)
    elif (path / MANIFEST).is_file():
        classes = _of_data_set(path)
    elif path.is_file():
        classes = _of_file(path)
    else:
        raise UsageError(f"--classes {location}: expected imagenet, a prepared data set, or a file of class names")
    if not classes:
        raise DataError(f"{location}: names no class")
    if len(set(classes)) != len(classes):
        twice = next(name for number, name in enumerate(classes) if name in classes[:number])
        raise DataError(f"{location}: has the class {twice!r} twice")
    return tuple(classes)
