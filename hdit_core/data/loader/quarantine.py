"""Damaged images of a run: they are replaced and reported, up to a limit.

The replacement is the next intact image of the same size in the order of the run. Like everything in a batch, it is a
function of (seed, number) and of the set of damaged images.
"""

import logging
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from hdit_core.data.loader.conditioning import Conditioning, Sample
from hdit_core.data.loader.image_reader import DamagedImage, ImageReader
from hdit_core.data.loader.order import Order
from hdit_core.errors import DataError

logger = logging.getLogger("hdit")


class Quarantine:
    """The damaged images of a run, each counted once.

    Attributes:
        limit: number of images that may be damaged.
        damaged: the defect of each of them by its index; the same on all ranks.
    """

    def __init__(self, limit: int, damaged: Mapping[int, str] | None = None) -> None:
        self.limit, self.damaged = limit, dict(damaged or {})
        self._pending: dict[int, str] = {}  # found by this rank, not yet counted

    def add(self, found: Mapping[int, str]) -> None:
        """Add damaged images of this rank, which `count` counts."""
        self._pending.update(found)

    def count(self, union: Callable[[Iterable[int]], Iterable[int]], where: Callable[[int], str]) -> None:
        """Count and report the damaged images of all ranks, so that all ranks end at the same step.

        Args:
            union: returns the ascending indices found by all ranks, given those of this one.
            where: describes an image found by another rank.

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
    conditioning: Conditioning,
) -> tuple[Sample, dict[int, str]]:
    """Return a sample of a run, and the damaged images that it replaces.

    Args:
        reader: reader of the data set.
        order: order of the run.
        number: index of the image in the run.
        index: index of the image in the data set.
        max_damaged: number of images that may be damaged.
        conditioning: reads a sample by its index in the data set.

    Raises:
        DamagedImage: no image may be replaced, or the replacements are damaged too.
    """
    damaged: dict[int, str] = {}
    # an image can occur twice if a new epoch starts among the replacements
    for skip in range(1, 2 * max_damaged + 3):
        try:
            return conditioning.read(reader, index), damaged
        except DamagedImage as problem:
            damaged[problem.index] = str(problem)
            if len(damaged) > max_damaged:
                raise
            index = int(order.images_at(np.array([number]), skip)[0])
    raise DataError(f"{reader.folder}: too many consecutive images are damaged; the last: {list(damaged.values())[-1]}")
