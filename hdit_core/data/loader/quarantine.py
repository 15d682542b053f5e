"""Damaged images that a run continues without: they are replaced and reported, up to a limit.

The replacement is a function of (seed, number) and of what is damaged, like everything about a batch: the next intact
image of the same size in the order of the run.
"""

from collections.abc import Callable, Mapping

import numpy as np

from hdit_core.data.loader.conditioning import ReadSample, Sample, read_image
from hdit_core.data.loader.order import Order
from hdit_core.data.loader.reader import DamagedImage, ImageReader
from hdit_core.errors import DataError


class Quarantine:
    """Counts damaged images, each of them once."""

    def __init__(self, limit: int, on_damage: Callable[[str], None] = lambda message: None) -> None:
        """Start without damaged images.

        Args:
            limit: number of images that may be damaged.
            on_damage: called with a message for each new one.
        """
        self.limit, self.on_damage = limit, on_damage
        self.damaged: dict[int, str] = {}

    def add(self, damaged: Mapping[int, str]) -> None:
        """Count damaged images.

        Args:
            damaged: what is wrong with each, by its index.

        Raises:
            DataError: there are more than the limit.
        """
        for index in sorted(damaged.keys() - self.damaged.keys()):
            self.damaged[index] = damaged[index]
            if len(self.damaged) > self.limit:
                raise DataError(
                    f"more than data.max_damaged = {self.limit} images are damaged; the last: {damaged[index]}"
                )
            self.on_damage(
                f"damaged image {len(self.damaged)} of at most {self.limit}, replaced by another: {damaged[index]}"
            )


def read_intact(
    reader: ImageReader,
    order: Order,
    number: int,
    index: int,
    max_damaged: int,
    read: ReadSample = read_image,
) -> tuple[Sample, dict[int, str]]:
    """Return a sample of a run, and the damaged ones that it replaces.

    Args:
        reader: the data set.
        order: of the run.
        number: of the image in the run.
        index: of the image in the data set.
        max_damaged: number of images that may be damaged.
        read: reads what is wanted of an image.

    Raises:
        DamagedImage: no image may be replaced, or the replacements are damaged too.
    """
    damaged: dict[int, str] = {}
    # where a new epoch begins among the replacements, an image may come twice
    for skip in range(1, 2 * max_damaged + 3):
        try:
            return read(reader, index), damaged
        except DamagedImage as problem:
            damaged[problem.index] = str(problem)
            if len(damaged) > max_damaged:
                raise
            index = int(order.images_at(np.array([number]), skip)[0])
    raise DataError(f"{reader.folder}: too many consecutive images are damaged; the last: {list(damaged.values())[-1]}")
