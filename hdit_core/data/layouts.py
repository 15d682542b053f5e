"""Folders that are no classes, though images lie in them: the pieces of a numbered list, sizes, and splits."""

import re
from collections.abc import Collection, Iterable

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
