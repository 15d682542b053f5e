"""The nine-parameter augmentation: its numbers, its transform, and independence of the batch."""

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from hdit_core.data.loader.augment import AffineWarp, Augmentation, affine, augment, condition, draw, resample

HEIGHT, WIDTH = 24, 36
NAMES = ("flip_x", "flip_y", "scale", "rotation", "squeeze", "squeeze_angle", "shift_x", "shift_y")


def doing(batch=1, **what):
    """Return an augmentation with only the named parameters."""
    return Augmentation(*(np.full(batch, float(what.get(name, 0))) for name in NAMES))


def warp(image, maps):
    """Move every point of one image to where its map sends it."""
    return resample(image[None], torch.from_numpy(np.linalg.inv(maps)[:, :2]).float())[0]


def augmented(images, seed, numbers, probability):
    """Return fully augmented images, and their conditioning vectors."""
    images, cond, warp = augment(images, seed, numbers, probability)
    return warp(images) if warp else images, cond


def smooth(batch=2, channels=3, height=HEIGHT, width=WIDTH):
    """Return slow waves, which bicubic and spline sampling agree on."""
    y, x = np.mgrid[:height, :width]
    waves = [
        0.8 * np.sin(0.21 * (b + 1) * x / (c + 1) + 0.3 * c) * np.cos(0.17 * y + 0.5 * b)
        for b in range(batch)
        for c in range(channels)
    ]
    return torch.from_numpy(np.stack(waves).reshape(batch, channels, height, width)).float()


def test_probability_0_changes_nothing():
    images = torch.rand(40, 3, 5, 7) * 2 - 1
    done, cond = augmented(images, 0, range(40), 0.0)
    assert torch.equal(done, images)
    assert torch.equal(cond, torch.zeros(40, 9))


def test_any_probability_mirrors_half_of_the_images_exactly():
    images = torch.rand(400, 3, 5, 7) * 2 - 1
    done, cond = augmented(images, 0, range(400), 1e-9)
    flipped = cond[:, 0] == 1
    assert 150 < int(flipped.sum()) < 250
    assert torch.equal(done[flipped], images[flipped].flip(-1))
    assert torch.equal(done[~flipped], images[~flipped])
    assert not cond[:, 1:].any()


@pytest.mark.parametrize("probability", [0.12, 0.5, 1.0])
def test_each_group_is_applied_with_its_probability(probability):
    drawn = draw(7, range(4000), probability)
    groups = {
        "flip_y": drawn.flip_y * 2,  # half of its applications flip
        "scale": drawn.scale,
        "rotation": drawn.rotation,
        "squeeze": drawn.squeeze,
        "squeeze_angle": drawn.squeeze_angle,
        "shift_x": drawn.shift_x,
        "shift_y": drawn.shift_y,
    }
    for name, values in groups.items():
        share = np.mean(values != 0) * (2 if name == "flip_y" else 1)
        assert abs(share - probability) < 0.04, name
    assert np.array_equal(drawn.shift_x != 0, drawn.shift_y != 0)
    assert np.array_equal(drawn.squeeze != 0, drawn.squeeze_angle != 0)
    assert abs(np.mean((drawn.scale != 0) & (drawn.rotation != 0)) - probability**2) < 0.04


def test_the_sampled_magnitudes_are_normal_and_the_angles_uniform():
    drawn = draw(3, range(4000), 1.0)
    for values in (drawn.scale, drawn.squeeze, drawn.shift_x, drawn.shift_y):
        assert abs(values.mean()) < 0.06
        assert abs(values.std() - 1) < 0.05
    for angle in (drawn.rotation, drawn.squeeze_angle):
        assert np.abs(angle).max() <= np.pi
        assert abs(angle.std() - np.pi / np.sqrt(3)) < 0.05
    assert np.abs(np.corrcoef([drawn.scale, drawn.squeeze, drawn.shift_x, drawn.shift_y]) - np.eye(4)).max() < 0.06


def test_the_nine_numbers_are_in_the_reference_order():
    cond = condition(
        doing(2, flip_x=1, flip_y=1, scale=0.5, rotation=0.3, squeeze=2, squeeze_angle=0.7, shift_x=-1, shift_y=3)
    )
    expected = [1, 1, 0.5, np.cos(0.3) - 1, np.sin(0.3), 2 * np.cos(0.7), 2 * np.sin(0.7), -1, 3]
    assert cond.dtype == torch.float32
    torch.testing.assert_close(cond, torch.tensor([expected] * 2, dtype=torch.float32))


def test_the_transform_moves_points_as_expected():
    """By hand, in pixels from the center with y down: what each parameter does to (x, y) = (8, 4)."""

    def goes(**what):
        return (affine(doing(**what), HEIGHT, WIDTH)[0] @ [8, 4, 1])[:2]

    np.testing.assert_allclose(goes(), [8, 4])
    np.testing.assert_allclose(goes(flip_x=1), [-8, 4])
    np.testing.assert_allclose(goes(flip_y=1), [8, -4])
    np.testing.assert_allclose(goes(scale=5), [16, 8])  # 2^(0.2 * 5)
    np.testing.assert_allclose(goes(rotation=np.pi / 2), [4, -8], atol=1e-9)  # the right goes up: counterclockwise
    np.testing.assert_allclose(goes(squeeze=5), [16, 2])
    np.testing.assert_allclose(goes(squeeze=5, squeeze_angle=np.pi / 2), [4, 8], atol=1e-9)
    np.testing.assert_allclose(goes(shift_x=1, shift_y=-1), [8 + WIDTH / 8, 4 - HEIGHT / 8])
    np.testing.assert_allclose(goes(shift_x=1, scale=5, flip_x=1), [-2 * (8 + WIDTH / 8), 8])


def test_flips_and_quarter_turns_and_whole_shifts_are_exact():
    image = smooth(1, 3, 25, 25)[0]
    turned = warp(image, affine(doing(rotation=np.pi / 2), 25, 25))
    torch.testing.assert_close(turned, torch.rot90(image, 1, (-2, -1)), atol=1e-5, rtol=0)
    both = warp(image, affine(doing(flip_x=1, flip_y=1), 25, 25))
    torch.testing.assert_close(both, image.flip((-2, -1)), atol=1e-5, rtol=0)
    shifted = warp(image, affine(doing(shift_x=8 / 25 * 3, shift_y=8 / 25 * 2), 25, 25))
    torch.testing.assert_close(shifted[:, 2:, 3:], image[:, :-2, :-3], atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(12))
def test_the_warp_agrees_with_scipys_mirrored_spline_interpolation(seed):
    """Another implementation, another kernel: on smooth images they differ by little, borders included."""
    images = smooth(1)
    drawn = draw(seed, [seed], 0.8)
    ours = warp(images[0], affine(drawn, HEIGHT, WIDTH)).numpy()

    backward = np.linalg.inv(affine(drawn, HEIGHT, WIDTH)[0])
    swap = np.array([[0, 1], [1, 0]])  # scipy counts rows first
    matrix, shift = swap @ backward[:2, :2] @ swap, swap @ backward[:2, 2]
    center = np.array([HEIGHT - 1, WIDTH - 1]) / 2
    for channel, plane in enumerate(images[0].numpy()):
        theirs = affine_transform(plane.astype(float), matrix, center - matrix @ center + shift, order=3, mode="mirror")
        difference = np.abs(ours[channel] - theirs.clip(-1, 1))
        assert difference.mean() < 0.01
        assert difference.max() < 0.1


def test_an_augmented_image_does_not_depend_on_its_batch():
    images = torch.rand(8, 3, HEIGHT, WIDTH) * 2 - 1
    together, cond = augmented(images, 5, range(100, 108), 0.7)
    for place in range(8):
        alone, alone_cond = augmented(images[place : place + 1], 5, [100 + place], 0.7)
        assert torch.equal(alone[0], together[place])
        assert torch.equal(alone_cond[0], cond[place])


def test_augmented_images_stay_in_their_range():
    images = (torch.rand(20, 3, 9, 7) > 0.5).float() * 2 - 1
    done, _ = augmented(images, 1, range(20), 1.0)
    assert done.shape == images.shape
    assert done.abs().max() <= 1
    assert done.isfinite().all()


def test_images_one_pixel_thin_can_be_augmented():
    images = torch.rand(4, 1, 1, 5)
    assert augmented(images, 0, range(4), 1.0)[0].isfinite().all()


def test_resampling_runs_on_the_device_and_flips_in_the_workers():
    images = torch.rand(200, 3, 5, 7) * 2 - 1
    flipped, cond, warp = augment(images, 0, range(200), 0.2)
    moved = (cond[:, 2:] != 0).any(1)
    assert torch.equal(warp.places, moved.nonzero()[:, 0])
    assert torch.equal(flipped[moved], images[moved])
    assert torch.equal(warp(flipped)[~moved], flipped[~moved]) and (flipped[~moved] != images[~moved]).any()
    assert isinstance(warp, AffineWarp) and warp.to("meta").sources.device.type == "meta"


def test_a_batch_with_only_flips_needs_no_resampling():
    assert augment(torch.rand(9, 3, 5, 7), 0, range(9), 1e-9)[2] is None
