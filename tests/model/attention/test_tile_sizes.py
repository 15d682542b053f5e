"""Every query has its whole window in its tile's halo, and tiles do not grow with the grid."""

import pytest
import torch

from hdit_core.model.attention.tiled import Axis, cut


@pytest.mark.parametrize("kernel_size", [3, 5, 7, 9, 13, 21])
@pytest.mark.parametrize("preferred", [1, 4, 8])
def test_every_query_finds_its_whole_window_in_its_halo(kernel_size, preferred):
    for size in range(kernel_size, 90):
        axis = cut(size, kernel_size, preferred)
        allowed = axis.allowed(kernel_size, torch.device("cpu"))
        assert allowed.shape == (axis.tiles, axis.tile, axis.halo)
        assert (allowed.sum(-1) == kernel_size).all(), axis
        assert axis.tiles * axis.tile >= size
        assert axis.padded >= axis.front + size


def test_the_work_of_a_query_does_not_grow_with_the_grid():
    assert {cut(size, 7, 4).halo for size in (64, 128, 1024, 8192)} == {10}
    assert max(cut(size, 7, 4).halo for size in range(64, 4096)) <= 13


def test_a_short_axis_stays_whole():
    assert cut(8, 7, 4) == Axis(size=8, tile=8, tiles=1, halo=8, front=0)
