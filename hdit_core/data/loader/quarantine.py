"""Damaged images that a run goes on without: others stand in for them, each is told of, and there may be only so many.

Which image stands in is a function of (seed, number) and of what is damaged, like everything about a batch: the next
sound one in the order of the run, of the same size.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import UInt8

from hdit_core.data.loader.order import Order
from hdit_core.data.loader.reader import DamagedImage, ImageReader
from hdit_core.errors import DataError


class Quarantine:
    """Counts the images that are damaged, each once however often it is met."""

    def __init__(self, limit: int, on_damage: Callable[[str], None] = lambda message: None) -> None:
        """Begin with none.

        Args:
            limit: images that may be damaged.
            on_damage: is told of each that is new.
        """
        self.limit, self.on_damage = limit, on_damage
        self.damaged: dict[int, str] = {}

    def add(self, damaged: Mapping[int, str]) -> None:
        """Count images, given with what is wrong with each.

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
                f"damaged image {len(self.damaged)} of at most {self.limit}, another stands in: {damaged[index]}"
            )


def read_sound(
    reader: ImageReader, order: Order, number: int, index: int, max_damaged: int
) -> tuple[UInt8[np.ndarray, "H W C"], int, dict[int, str]]:
    """Return an image of a run, its class number, and what was found to be damaged on the way to it.

    Args:
        reader: the data set.
        order: of the run.
        number: of the image in the run.
        index: which image of the data set that is.
        max_damaged: images that may be damaged.

    Raises:
        DamagedImage: and no image may stand in, or those that could are damaged too.
    """
    damaged: dict[int, str] = {}
    # an epoch that begins anew on the way may show images again that were met before
    for later in range(1, 2 * max_damaged + 3):
        try:
            return *reader.read(index), damaged
        except DamagedImage as problem:
            damaged[problem.index] = str(problem)
            if len(damaged) > max_damaged:
                raise
            index = int(order.images_at(np.array([number]), later)[0])
    raise DataError(f"{reader.folder}: image after image is damaged; the last: {list(damaged.values())[-1]}")
