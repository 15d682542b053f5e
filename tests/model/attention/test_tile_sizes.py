"""The halo of a tile contains the windows of its queries, and does not grow with the grid."""

import pytest
import torch

from hdit_core.model.attention.tiled_pytorch import Axis, divide_axis


@pytest.mark.parametrize("kernel_size", [3, 5, 7, 9, 13, 21])
@pytest.mark.parametrize("preferred", [1, 4, 8])
def test_a_tiles_halo_contains_the_windows_of_all_its_queries(kernel_size, preferred):
    for size in range(kernel_size, 90):
        axis = divide_axis(size, kernel_size, preferred)
        allowed = axis.allowed(kernel_size, torch.device("cpu"))
        assert allowed.shape == (axis.tiles, axis.tile, axis.halo)
        assert (allowed.sum(-1) == kernel_size).all(), axis
        assert axis.tiles * axis.tile >= size
        assert axis.padded >= axis.front + size


def test_the_size_of_a_halo_does_not_grow_with_the_grid():
    assert {divide_axis(size, 7, 4).halo for size in (64, 128, 1024, 8192)} == {10}
    assert max(divide_axis(size, 7, 4).halo for size in range(64, 4096)) <= 13


def test_a_short_axis_is_a_single_tile():
    assert divide_axis(8, 7, 4) == Axis(size=8, tile=8, tiles=1, halo=8, front=0)
