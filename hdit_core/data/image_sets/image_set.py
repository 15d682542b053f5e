"""A set of images to score: functions that read them, called in threads ahead of the network."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.errors import UsageError

ReadImage = Callable[[], Shaped[np.ndarray, "H W C"]]
"""Returns an image in 8 bits; of a set that was opened in full depth, its stored values."""


@dataclass(frozen=True)
class ImageSet:
    """Images to score.

    Attributes:
        source: their origin, for the provenance of the score.
        count: number of images; None for a stream.
        open: returns the reading functions of the images at some indices, 0 <= index < count, in ascending order;
            making such a function is quick, calling it takes time.
        identity: changes when any image may have changed; "" for a stream, which can be read only once.
        remarks: remarks for readers of the score.
        names: names of the files, relative to the source; None if images have none.
        numbers: indices of the images among all images of the source, ascending; None for a stream.
        label: returns the class of the image at an index, -1 if it has none; None for sources without classes.
        recorded: type and range of the stored values, of a set in full depth that records them; else None.
    """

    source: dict[str, Any]
    count: int | None
    open: Callable[[Sequence[int]], Iterator[ReadImage]]
    identity: str = ""
    remarks: tuple[str, ...] = ()
    names: Sequence[str] | None = None
    numbers: Sequence[int] | None = None
    label: Callable[[int], int] | None = None
    recorded: PixelFormat | None = None

    def readers(self, start: int = 0) -> Iterator[ReadImage]:
        """Return the reading functions of all images, or of all from an index on."""
        return self.open(range(start, sys.maxsize if self.count is None else self.count))

    def read_many(self, places: Sequence[int]) -> list[UInt8[np.ndarray, "H W C"]]:
        """Return some images in the order of `places`; they may have been read before.

        Raises:
            UsageError: the set is a stream.
        """
        if not self.identity:
            raise UsageError(
                f"{self.source['path']}: a stream can be read once; give a file or folder to show images of"
            )
        ascending = sorted(set(places))
        images = {place: read() for place, read in zip(ascending, self.open(ascending), strict=True)}
        return [images[place] for place in places]


def class_map_sha256(names: Sequence[str]) -> str:
    """Return the sha256 of the names of classes in the order of their numbers."""
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()
