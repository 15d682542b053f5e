"""Degradations: pure functions of (image, seed, number), of the stated strength."""

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_core.data.degrade.degrade import degrade
from hdit_core.data.degrade.filters import blur, resize
from hdit_core.images import to_uint8
from hdit_core.recipe.data import DegradeRecipe, degraded_channels

EACH = {
    "downscale": {"factor": 4.0},
    "blur": {"sigma": 1.5},
    "noise": {"std": 0.2},
    "grey": {},
    "mask": {},
    "jpeg": {},
}
RANDOM = ("noise", "mask", "jpeg")


def operation(kind, **keys):
    return DegradeRecipe(kind=kind, **(EACH[kind] | keys))


@pytest.fixture
def image():
    """A smooth picture with edges, of 3 channels."""
    rows, columns = np.mgrid[0:24, 0:32]
    waves = [np.sin(rows / 4 + phase) * np.cos(columns / 5) * 0.6 + 0.3 * (columns > 16) for phase in range(3)]
    return torch.from_numpy(np.stack(waves)).float()


@pytest.mark.parametrize("kind", EACH)
def test_a_degradation_is_a_function_of_seed_and_number_within_the_range_of_pixels(image, kind):
    before = image.clone()
    first = degrade(image, [operation(kind)], 3, 5)
    assert torch.equal(image, before)
    assert first.dtype == torch.float32
    assert first.shape == (degraded_channels([operation(kind)], 3), 24, 32)
    assert first.min() >= -1
    assert first.max() <= 1
    assert torch.equal(first, degrade(image, [operation(kind)], 3, 5))
    for seed, number in ((4, 5), (3, 6)):
        assert torch.equal(first, degrade(image, [operation(kind)], seed, number)) == (kind not in RANDOM)


def test_the_operations_are_applied_in_order_each_with_its_own_random_numbers(image):
    first, second = operation("noise"), operation("noise")
    both = degrade(image, [first, second], 0, 1)
    alone = degrade(degrade(image, [first], 0, 1), [second], 0, 1)
    assert not torch.equal(both, alone)  # the second one's place in the list is part of its stream
    chain = [operation("downscale"), operation("grey"), operation("mask", shape="center", area=(0.25, 0.25))]
    grey = degrade(degrade(image, chain[:1], 0, 1), chain[1:2], 0, 1)
    found = degrade(image, chain, 0, 1)
    assert torch.equal(found[0].where(found[1] < 0, grey[0]), grey[0])


def test_noise_has_the_stated_standard_deviation():
    found = degrade(torch.zeros(3, 64, 96), [operation("noise", std=0.1)], 0, 0)
    assert found.std().item() == pytest.approx(0.1, rel=0.02)
    assert found.mean().item() == pytest.approx(0, abs=0.003)


def test_downscaling_keeps_the_frequencies_that_a_smaller_image_can_represent():
    rows = torch.linspace(-0.8, 0.8, 32)[:, None].expand(32, 24)[None]
    found = degrade(rows, [operation("downscale", factor=4.0, kernel="box")], 0, 0)
    torch.testing.assert_close(found[:, 4:-4], rows[:, 4:-4], atol=0.02, rtol=0)
    checker = (torch.arange(32)[:, None] + torch.arange(24)) % 2 * 2.0 - 1
    assert degrade(checker[None], [operation("downscale", factor=4.0, kernel="box")], 0, 0).abs().max() < 1e-6


@pytest.mark.parametrize("kernel", ["box", "bilinear", "bicubic", "lanczos"])
def test_resizing_agrees_with_pillow_within_rounding(image, kernel):
    found = to_uint8(resize(image, (6, 10), kernel)[None])[0]
    picture = Image.fromarray(to_uint8(image[None])[0])
    theirs = np.asarray(picture.resize((10, 6), getattr(Image.Resampling, kernel.upper())))
    assert np.abs(found.astype(int) - theirs.astype(int)).max() <= 1


def test_a_blur_is_the_convolution_with_a_gaussian(image):
    impulse = torch.zeros(1, 33, 41)
    impulse[0, 16, 20] = 1
    found = blur(impulse, 2.0)[0].double()
    rows, columns = torch.arange(33) - 16, torch.arange(41) - 20
    gaussian = torch.exp(-(rows[:, None] ** 2 + columns[None, :] ** 2) / 8.0).double()
    torch.testing.assert_close(found, gaussian / gaussian.sum(), atol=1e-4, rtol=0)
    torch.testing.assert_close(blur(torch.full((2, 8, 9), 0.7), 3.0), torch.full((2, 8, 9), 0.7))


def test_grey_is_the_weighted_sum_of_the_channels():
    image = torch.tensor([0.5, -0.2, 0.1]).view(3, 1, 1).expand(3, 4, 5)
    expected = 0.299 * 0.5 - 0.587 * 0.2 + 0.114 * 0.1
    torch.testing.assert_close(degrade(image, [operation("grey")], 0, 0), torch.full((1, 4, 5), expected))


@pytest.mark.parametrize("shape", ["rectangles", "center", "free-form"])
def test_a_mask_covers_the_stated_area_and_zeroes_its_pixels(shape):
    image, areas = torch.full((2, 48, 64), 0.5), []
    for number in range(40):
        found = degrade(image, [operation("mask", shape=shape, area=(0.2, 0.4))], 1, number)
        mask = found[-1] > 0
        assert ((found[-1] == 1) | (found[-1] == -1)).all()
        assert (found[:2, mask] == 0).all()
        assert (found[:2, ~mask] == 0.5).all()
        areas.append(mask.float().mean().item())
    assert min(areas) > 0.15
    assert max(areas) < (0.55 if shape == "free-form" else 0.41)
    assert np.mean(areas) == pytest.approx(0.3, abs=0.06)


def test_a_central_mask_is_centered():
    mask = degrade(torch.zeros(1, 16, 24), [operation("mask", shape="center", area=(0.25, 0.25))], 0, 0)[-1] > 0
    assert mask[4:12, 6:18].all()
    assert mask.sum() == 8 * 12


def test_a_lower_quality_loses_more(image):
    loss = [(degrade(image, [operation("jpeg", quality=(q, q))], 0, 0) - image).abs().mean() for q in (95, 40, 5)]
    assert loss[0] < loss[1] < loss[2]
    assert degrade(image[:1], [operation("jpeg")], 0, 0).shape == (1, 24, 32)
