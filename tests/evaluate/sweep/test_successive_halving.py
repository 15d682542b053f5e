"""The rounds of a sweep, and who goes on to the next."""

import pytest

from hdit_core.evaluate.sweep.search_space import Point
from hdit_core.evaluate.sweep.successive_halving import halving_schedule, keep_best_half


@pytest.mark.parametrize(
    "count, n, least, expected",
    [
        (27, 8000, 2049, [4096, 8000]),  # 2,000 are too few
        (27, 50_000, 2049, [3200, 6272, 12544, 25088, 50_000]),
        (4, 8000, 100, [4096, 8000]),
        (2, 8000, 100, [8000]),
        (1, 8000, 100, [8000]),
        (9, 2049, 2049, [2049]),
    ],
)
def test_rounds_double_their_images_and_never_have_too_few(count, n, least, expected):
    assert halving_schedule(count, n, least) == expected


def test_the_better_half_advances_but_never_a_single_candidate():
    points = [Point("ema", float(scale)) for scale in range(5)]
    scores = dict(zip(points, [3.0, 1.0, 2.0, 9.0, 1.0], strict=True))
    assert keep_best_half(scores) == [points[1], points[4], points[2]]
    assert keep_best_half({points[0]: 1.0, points[1]: 0.5}) == [points[1], points[0]]
    assert keep_best_half({points[0]: 1.0}) == [points[0]]
