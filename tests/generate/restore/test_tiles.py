"""Tiles cover an image and are blended, with the same result for any number of tiles at once."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from hdit_core.checkpoint import load_denoiser
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import UsageError
from hdit_core.generate.restore.tiles import TiledDenoiser, Tiling

SIZE = (36, 60)
SIGMA = torch.tensor([0.5, 2.0])


def inputs(size, seed=0):
    numbers = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, *size, generator=numbers), torch.rand(2, 3, *size, generator=numbers)


@pytest.fixture
def denoiser(network):
    return load_denoiser(network())


class _Same(nn.Module):
    """A network whose output is the condition."""

    def forward(self, x, sigma, class_ids, augment_cond, mapping_cond, condition):
        return condition


def test_blending_the_tiles_of_an_image_gives_that_image(denoiser):
    same = Denoiser(_Same(), denoiser.recipe)
    x, condition = inputs(SIZE)
    expected = same(x, SIGMA, condition=condition)
    found = TiledDenoiser(same, Tiling((16, 24), 4), 3)(x, SIGMA, condition=condition)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("overlap", [0, 4, 15])
@pytest.mark.parametrize("size", [(16, 24), (17, 24), (100, 31), (40, 25)])
def test_tiles_cover_the_image_and_overlap_by_at_least_the_overlap(size, overlap):
    corners = sorted(set(Tiling((16, 24), overlap).corners(size)))
    for axis, tile in ((0, 16), (1, 24)):
        starts = sorted({corner[axis] for corner in corners})
        assert starts[0] == 0 and starts[-1] == max(0, size[axis] - tile)
        assert all(after - before <= tile - overlap for before, after in pairwise(starts))
    assert len(corners) == len({top for top, _ in corners}) * len({left for _, left in corners})


@pytest.mark.parametrize("tiles_at_once", [1, 3, 100])
def test_the_result_does_not_depend_on_how_many_tiles_are_evaluated_at_once(denoiser, tiles_at_once):
    x, condition = inputs(SIZE)
    tiling = Tiling((16, 24), 4)
    alone = TiledDenoiser(denoiser, tiling, 2)(x, SIGMA, condition=condition)
    assert TiledDenoiser(denoiser, tiling, tiles_at_once)(x, SIGMA, condition=condition).equal(alone)
    swapped = TiledDenoiser(denoiser, tiling, 5)(x.flip(0), SIGMA.flip(0), condition=condition.flip(0))
    assert swapped.flip(0).equal(alone)
    assert not alone.equal(denoiser(x, SIGMA, condition=condition))


def test_an_image_that_fits_into_a_tile_is_denoised_as_a_whole(denoiser):
    x, condition = inputs((12, 24))
    tiled = TiledDenoiser(denoiser, Tiling((16, 24), 4), 1)
    assert tiled(x, SIGMA, condition=condition).equal(denoiser(x, SIGMA, condition=condition))


def test_one_noise_level_may_serve_for_all_images(denoiser):
    x, condition = inputs(SIZE)
    tiled = TiledDenoiser(denoiser, Tiling((16, 24), 4), 4)
    assert tiled(x, 0.5, condition=condition).equal(tiled(x, torch.tensor([0.5, 0.5]), condition=condition))


@pytest.mark.parametrize("overlap", [-1, 16])
def test_an_overlap_as_large_as_a_tile_is_refused(overlap):
    with pytest.raises(UsageError, match=f"--overlap {overlap}: expected 0 to 15 pixels with tiles of 16x24"):
        Tiling((16, 24), overlap)


def test_a_tile_that_the_network_cannot_process_is_refused(denoiser):
    with pytest.raises(UsageError, match=r"--tile 16x30: width 30 is not a multiple.*; the training size is 16x24"):
        Tiling.of(denoiser.recipe.model, (16, 30), None)
