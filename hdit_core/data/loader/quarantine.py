"""Damaged images that a run continues without: they are replaced and reported, up to a limit.

The replacement is a function of (seed, number) and of what is damaged, like everything about a batch: the next intact
image of the same size in the order of the run.
"""

import logging
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from hdit_core.data.loader.conditioning import ReadSample, Sample, read_image
from hdit_core.data.loader.order import Order
from hdit_core.data.loader.reader import DamagedImage, ImageReader
from hdit_core.errors import DataError

logger = logging.getLogger("hdit")


class Quarantine:
    """The damaged images of a run, each counted once.

    Attributes:
        limit: number of images that may be damaged.
        damaged: what is wrong with each of them, by its index; the same on all ranks.
    """

    def __init__(self, limit: int, damaged: Mapping[int, str] | None = None) -> None:
        self.limit, self.damaged = limit, dict(damaged or {})
        self._pending: dict[int, str] = {}  # found by this rank, and not yet counted

    def add(self, found: Mapping[int, str]) -> None:
        """Note damaged images of this rank; `count` counts them."""
        self._pending.update(found)

    def count(self, union: Callable[[Iterable[int]], Iterable[int]], where: Callable[[int], str]) -> None:
        """Count and report the images that any rank has noted, so that all ranks end at the same step.

        Args:
            union: returns the ascending numbers of all ranks, given those of this one.
            where: describes an image that another rank found.

        Raises:
            DataError: there are more than the limit.
        """
        for index in union(self._pending.keys() - self.damaged.keys()):
            problem = self.damaged[index] = self._pending.get(index) or where(index)
            if len(self.damaged) > self.limit:
                raise DataError(f"more than data.max_damaged = {self.limit} images are damaged; the last: {problem}")
            logger.warning(f"damaged image {len(self.damaged)} of at most {self.limit}, replaced by another: {problem}")


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
