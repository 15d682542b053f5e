"""Successive halving: the images of each round of a sweep, and which candidates go on to the next."""

import math

from hdit_core.evaluate.feature_batch import whole_up_to
from hdit_core.evaluate.sweep.search_space import Point


def halving_schedule(count: int, n: int, least: int) -> list[int]:
    """Return the number of images of each round: n in the last, half as many in the one before, and so on.

    Args:
        count: number of candidates; there are so many rounds that at least two are left for the last.
        n: images per candidate in the last round.
        least: minimum number of images in any round.
    """
    sizes = [n]
    while len(sizes) < (count - 1).bit_length() and sizes[0] / 2 >= least:
        sizes.insert(0, min(whole_up_to(sizes[0] // 2), sizes[0]))  # whole chunks, which the next round reuses
    return sizes


def keep_best_half(scores: dict[Point, float]) -> list[Point]:
    """Return the better half of the candidates, best first, at least two if there are several."""
    order = sorted(scores, key=lambda point: scores[point])  # stable: ties keep the order of the grid
    return order[: max(math.ceil(len(order) / 2), min(2, len(order)))]
