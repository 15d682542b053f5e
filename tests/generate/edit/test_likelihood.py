"""Bits per dimension, against closed forms, and the evaluated images."""

import io
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.image.arrays.png_array import png16_bytes
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import DataError, UsageError
from hdit_core.generate.edit.likelihood import (
    LabelledImage,
    RunningMean,
    bits_per_dim,
    dequantize,
    open_labelled_images,
)
from hdit_core.images import from_uint8, png_bytes
from tests.generate.edit.pictures import SIZE, pictures_u8, pipeline_of
from tests.generate.exact_denoiser import GaussianDenoiser
from tests.generate.smooth_network import smooth_network


@pytest.fixture
def gaussian(tiny_recipe):
    return GaussianDenoiser(tiny_recipe, mean=0.1, std=0.4)


def given(count=5, class_id=1):
    return [LabelledImage(number, f"{number}.png", image, class_id) for number, image in enumerate(pictures_u8(count))]


def test_the_likelihood_of_a_gaussian_agrees_with_its_closed_form(gaussian):
    pipeline = pipeline_of(gaussian, sigma_max=1e4)
    found = [one.bits_per_dim for one in bits_per_dim(pipeline, given(), tolerance=1e-5)]
    x = dequantize(pictures_u8(5), pipeline.seed, range(5))
    expected = gaussian.bits_per_dim_u8(x, pipeline.settings.sigma_min, mean=0.1)
    torch.testing.assert_close(torch.tensor(found).double(), expected, rtol=0, atol=1e-3)


def test_the_likelihood_of_an_image_depends_on_the_seed_and_not_on_its_batch(gaussian):
    def cost(batch_size, seed=5):
        return [one.bits_per_dim for one in bits_per_dim(pipeline_of(gaussian, seed, batch_size=batch_size), given())]

    assert cost(1) == pytest.approx(cost(4), abs=1e-9)
    assert cost(4) != pytest.approx(cost(4, seed=6), abs=1e-6)


def test_the_likelihood_of_a_network_uses_its_own_gradients(tiny_recipe):
    denoiser = Denoiser(smooth_network(tiny_recipe), tiny_recipe).eval().requires_grad_(False)
    few = [one.bits_per_dim for one in bits_per_dim(pipeline_of(denoiser), given(2), probes=1, tolerance=1e-2)]
    many = [one.bits_per_dim for one in bits_per_dim(pipeline_of(denoiser), given(2), probes=3, tolerance=1e-2)]
    assert all(5 < bits < 12 for bits in few) and few == pytest.approx(many, abs=0.05) and few != many


def test_guidance_has_no_likelihood(gaussian):
    with pytest.raises(UsageError, match="guided samples have no tractable density; omit it or set it to 1"):
        list(bits_per_dim(pipeline_of(gaussian, guidance=2.0), given()))


def test_dequantized_values_are_uniform_over_the_width_of_their_level():
    levels = pictures_u8(2)
    noisy = dequantize(levels, 3, [4, 9])
    shift = (noisy - from_uint8(levels)) * 127.5
    assert shift.min() >= -0.501 and shift.max() <= 0.501 and abs(shift.mean()) < 0.02
    assert abs(shift.var().item() - 1 / 12) < 0.005
    assert torch.equal(dequantize(levels[1:], 3, [9]), noisy[1:])


def test_the_running_mean_gives_mean_and_standard_error():
    values, tally = [3.0, 4.5, 1.25, 7.0], RunningMean()
    assert tally.standard_error is None
    for value in values:
        tally.add(value)
    assert tally.mean == pytest.approx(np.mean(values))
    assert tally.standard_error == pytest.approx(np.std(values, ddof=1) / 2)


def folder_of(tmp_path, count=4):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(pictures_u8(count)):
        (folder / f"{number}.png").write_bytes(png_bytes(image))
    (folder / "notes.txt").write_text("no image")
    return folder


def test_images_of_a_folder_have_no_class_or_the_given_one(tmp_path):
    folder = folder_of(tmp_path)
    found = open_labelled_images(str(folder), (*SIZE, 3), num_classes=3)
    images = list(found.images)
    assert (found.count, found.classes, [one.class_id for one in images]) == (4, "none", [3] * 4)
    assert [one.name for one in images] == ["0.png", "1.png", "2.png", "3.png"]
    assert (images[2].image_u8 == pictures_u8(4)[2]).all()
    assert [one.class_id for one in open_labelled_images(str(folder), (*SIZE, 3), 3, class_id=2).images] == [2] * 4
    assert [one.class_id for one in open_labelled_images(str(folder), (*SIZE, 3), 0).images] == [None] * 4


def test_images_of_another_size_are_cropped_and_resized(tmp_path):
    folder = folder_of(tmp_path, 2)
    Image.new("RGB", (100, 30)).save(folder / "wide.png")
    assert all(one.image_u8.shape == (8, 8, 3) for one in open_labelled_images(str(folder), (8, 8, 3), 0).images)
    assert [one.image_u8.shape for one in open_labelled_images(str(folder / "wide.png"), (*SIZE, 1), 0).images] == [
        (*SIZE, 1)
    ]


def test_a_subset_of_the_images_is_drawn_by_the_seed(tmp_path):
    folder = str(folder_of(tmp_path, 8))
    chosen = [
        [one.index for one in open_labelled_images(folder, (*SIZE, 3), 0, n=3, seed=seed).images] for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2] and chosen[0] == sorted(set(chosen[0])) and len(chosen[0]) == 3
    with pytest.raises(DataError, match="--count 9: it has only 8 images"):
        open_labelled_images(folder, (*SIZE, 3), 0, n=9)


def test_a_prepared_data_set_gives_its_classes(tiny_data):
    found = open_labelled_images(str(tiny_data), (16, 24, 3), num_classes=3)
    labels = [one.class_id for one in found.images]
    assert found.count == 20 and set(labels) == {0, 1, 2} and found.classes == "of the data set"
    assert {one.class_id for one in open_labelled_images(str(tiny_data), (16, 24, 3), 3, class_id=1).images} == {1}
    with pytest.raises(DataError, match="holds 3 classes, the network has 5; give one class with --class"):
        open_labelled_images(str(tiny_data), (16, 24, 3), num_classes=5)
    with pytest.raises(DataError, match="holds images of 3 channels, the network takes 1"):
        next(open_labelled_images(str(tiny_data), (16, 24, 1), num_classes=0).images)


def test_arrays_and_streams_are_read_too(tmp_path, monkeypatch):
    images_u8 = pictures_u8(4)
    np.savez(tmp_path / "samples.npz", arr_0=images_u8)
    found = open_labelled_images(str(tmp_path / "samples.npz"), (*SIZE, 3), num_classes=0, n=2)
    chosen = list(found.images)
    assert found.count == 2 and all((one.image_u8 == images_u8[one.index]).all() for one in chosen)
    assert [one.name for one in chosen] == [f"image {one.index}" for one in chosen]
    shutil.make_archive(str(tmp_path / "all"), "tar", folder_of(tmp_path))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO((tmp_path / "all.tar").read_bytes())))
    streamed = open_labelled_images("-", (*SIZE, 3), num_classes=0)
    assert streamed.count is None and [one.index for one in streamed.images] == [0, 1, 2, 3]


def test_the_grid_in_a_folder_of_samples_is_not_evaluated(tmp_path):
    folder = folder_of(tmp_path, 2)
    (folder / "samples.json").write_text("{}")
    (folder / "grid.png").write_bytes(png_bytes(pictures_u8(1)[0]))
    assert open_labelled_images(str(folder), (*SIZE, 3), 0).count == 2


def test_images_that_cannot_be_evaluated_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no images in it"):
        open_labelled_images(str(tmp_path / "empty"), (*SIZE, 3), 0)
    folder = folder_of(tmp_path, 1)
    (folder / "x.png").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"x.png: cannot be scored \(.*\); remove or replace it"):
        list(open_labelled_images(str(folder), (*SIZE, 3), 0).images)


RANGE = ((0.0, 4095.0),)


def test_an_image_is_read_in_the_range_of_the_networks_images(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (*SIZE, 1)).astype(np.uint16)
    (tmp_path / "x.png").write_bytes(png16_bytes(values))
    pixels = PixelFormat(1, "uint16", RANGE)
    (one,) = open_labelled_images(str(tmp_path / "x.png"), (*SIZE, 1), 0, pixels=pixels).images
    assert np.abs(one.image_u8 - values / 4095 * 255).max() <= 0.5


def test_files_of_values_in_another_range_than_8_bits_are_refused(tmp_path, tiny_data):
    folder, pixels = folder_of(tmp_path, 2), PixelFormat(3, "uint16", RANGE)
    with pytest.raises(UsageError, match="are read in 8 bits, and the network was trained on values from 0 to 4095"):
        open_labelled_images(str(folder), (*SIZE, 3), 0, pixels=pixels)
    assert open_labelled_images(str(folder), (*SIZE, 3), 0, pixels=PixelFormat(3, "uint16")).count == 2
    assert open_labelled_images(str(tiny_data), (*SIZE, 3), 3, pixels=pixels).count == 20
    (folder / "samples.json").write_text('{"origin": {"pixels": {"dtype": "uint16", "range": [[0.0, 4095.0]]}}}')
    assert open_labelled_images(str(folder), (*SIZE, 3), 0, pixels=pixels).count == 2
