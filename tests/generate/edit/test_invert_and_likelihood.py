"""A picture to noise and back, and its bits per dimension: against closed forms, and the files that hold noise."""

import io
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hdit_core.checkpoint.safetensors_file import read_tensors, write_tensors
from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.probability_flow import solve_pf_ode
from hdit_core.errors import CheckpointError, DataError, UsageError
from hdit_core.generate.edit.interpolate import interpolate, parse_endpoint
from hdit_core.generate.edit.invert import StoredNoise, invert, read_noise, write_noise
from hdit_core.generate.edit.likelihood import (
    LabelledImage,
    RunningMean,
    bits_per_dim,
    dequantise,
    open_labelled_images,
)
from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.images import from_uint8, png_bytes
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.randomness import stream
from tests.generate.exact_denoiser import GaussianDenoiser

SIZE = (16, 24)


@pytest.fixture
def gaussian(tiny_recipe):
    return GaussianDenoiser(tiny_recipe, mean=0.1, std=0.4)


def pipeline_of(denoiser, seed=5, **settings):
    values = {"batch_size": 3} | settings
    return SamplingPipeline(denoiser, denoiser.recipe.sample.model_copy(update=values), seed, SIZE)


def pictures_u8(count=1):
    return stream(7, "pictures", 0).integers(0, 256, (count, *SIZE, 3), np.uint8)


def picture():
    return from_uint8(pictures_u8())


def test_the_ode_carries_a_gaussian_as_its_closed_form_does(gaussian):
    x = picture().double()
    up = solve_pf_ode(lambda x, sigma: gaussian(x, sigma), x, 0.01, 80.0, rtol=1e-8, atol=1e-8)
    expected = 0.1 + (x - 0.1) * ((0.4**2 + 80.0**2) / (0.4**2 + 0.01**2)) ** 0.5  # with mean 0.1 at any level
    torch.testing.assert_close(up.x, expected, rtol=1e-6, atol=1e-5)
    down = solve_pf_ode(lambda x, sigma: gaussian(x, sigma), up.x, 80.0, 0.01, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(down.x, x, rtol=0, atol=1e-6)
    assert up.num_evaluations > 10 and down.num_evaluations > 10


def test_carried_nowhere_an_image_stays(gaussian):
    found = solve_pf_ode(lambda x, sigma: gaussian(x, sigma), picture().double(), 2.0, 2.0)
    torch.testing.assert_close(found.x, picture().double(), rtol=1e-15, atol=1e-15)
    assert found.num_evaluations == 0


def test_an_image_is_carried_alike_in_any_batch(gaussian):
    both = from_uint8(pictures_u8(2)).double()
    together = solve_pf_ode(lambda x, sigma: gaussian(x, sigma), both, 0.01, 80.0).x
    alone = solve_pf_ode(lambda x, sigma: gaussian(x, sigma), both[1:], 0.01, 80.0).x
    torch.testing.assert_close(together[1:], alone, rtol=1e-12, atol=1e-12)


def test_a_picture_comes_back_from_its_noise_and_a_smaller_tolerance_brings_it_nearer(gaussian):
    errors = [invert(pipeline_of(gaussian), picture(), [1], tolerance).error_levels for tolerance in (1e-2, 1e-4, 1e-6)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-2 and errors[1] < 0.1
    found = invert(pipeline_of(gaussian), picture(), [1], 1e-6)
    assert found.largest_error_levels < 0.05 and found.psnr_db > 80 and found.num_evaluations > 20
    assert (found.back - picture()[0]).abs().max() < 1e-3


def test_the_noise_of_a_gaussians_own_images_is_standard_normal(gaussian):
    images = 0.1 + 0.4 * torch.from_numpy(stream(1, "own", 0).standard_normal((1, 3, *SIZE), "float32"))
    noise = invert(pipeline_of(gaussian), images, [1]).noise
    assert abs(noise.std().item() - 1) < 0.05 and noise.shape == (3, *SIZE)


def stored(tmp_path, pipeline, class_id=1):
    noise = invert(pipeline, picture(), [class_id]).noise
    write_noise(tmp_path / "noise.safetensors", pipeline, StoredNoise(noise, class_id))
    return tmp_path / "noise.safetensors", noise


def test_noise_is_written_once_and_read_back(gaussian, tmp_path):
    path, noise = stored(tmp_path, pipeline_of(gaussian))
    found = read_noise(path, pipeline_of(gaussian, seed=99))
    assert torch.equal(found.noise, noise) and found.class_id == 1
    with pytest.raises(UsageError, match=r"noise.safetensors: already exists and is never replaced"):
        write_noise(path, pipeline_of(gaussian), StoredNoise(noise, 1))
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(UsageError, match="link: already exists"):
        write_noise(tmp_path / "link", pipeline_of(gaussian), StoredNoise(noise, 1))


def test_a_stored_noise_becomes_its_picture_again(gaussian, tmp_path):
    pipeline = pipeline_of(gaussian, sampler="heun", steps=60)
    path, _ = stored(tmp_path, pipeline)
    draw = interpolate(pipeline, parse_endpoint(str(path), pipeline), parse_endpoint("4", pipeline, 1), frames=3)
    back = draw([0], None)
    assert ((back - picture()).abs() * 127.5).mean() < 3


@pytest.mark.parametrize(
    ("changes", "key"), [({"sigma_max": 60.0}, "sigma_max"), ({"guidance": 2.0}, "guidance"), ({}, "weights_sha256")]
)
def test_noise_that_belongs_to_something_else_is_refused(gaussian, tmp_path, changes, key):
    path, _ = stored(tmp_path, pipeline_of(gaussian))
    if not changes:
        torch.nn.init.constant_(gaussian.network.weight, 3.0)
    with pytest.raises(UsageError, match=f"its noise was made with another {key}; invert the image again"):
        read_noise(path, pipeline_of(gaussian, **changes))


def test_noise_belongs_to_what_led_it_and_a_file_that_does_not_say_it_to_nothing_such(gaussian, tmp_path):
    noise, led, guide = torch.zeros(3, *SIZE), pipeline_of(gaussian), Guide(gaussian, 2.0)
    interval, rescale = {"guidance_interval": (0.3, 5.0)}, {"guidance_rescale": 0.5}
    ways = {
        "guidance_interval": pipeline_of(gaussian, **interval),
        "guidance_rescale": pipeline_of(gaussian, **rescale),
    }
    ways["guide"] = replace(led, guide=guide)
    for name, way in ways.items():
        write_noise(tmp_path / name, way, StoredNoise(noise, 1))
        assert torch.equal(read_noise(tmp_path / name, way).noise, noise)
        with pytest.raises(UsageError, match=f"its noise was made with another {name};"):
            read_noise(tmp_path / name, led)
    write_noise(tmp_path / "idle", replace(led, guide=replace(guide, weight=1.0)), StoredNoise(noise, 1))
    assert torch.equal(read_noise(tmp_path / "idle", led).noise, noise)

    about = json.loads(read_tensors(tmp_path / "idle")[1]["about"])
    known = json.dumps({key: value for key, value in about.items() if key not in ways})
    write_tensors(tmp_path / "old", {"noise": noise}, led.denoiser.recipe.model_dump_json(), kind="noise", about=known)
    assert torch.equal(read_noise(tmp_path / "old", led).noise, noise)


def test_a_file_that_holds_no_noise_is_refused(gaussian, tmp_path):
    pipeline = pipeline_of(gaussian)
    save_file({"noise": torch.zeros(3, *SIZE)}, tmp_path / "other.safetensors")
    with pytest.raises(
        CheckpointError, match=r"other.safetensors: contains no noise; expected a file that `hdit edit inv"
    ):
        read_noise(tmp_path / "other.safetensors", pipeline)
    with pytest.raises(CheckpointError, match="no such file"):
        parse_endpoint("nowhere.safetensors", pipeline)
    about = json.dumps({"class": 1} | {"weights_sha256": "x"})
    for metadata, message in (("{", "metadata is damaged"), (about, "another weights_sha256")):
        save_file({"noise": torch.zeros(3, *SIZE)}, tmp_path / "x", {"kind": "noise", "about": metadata})
        with pytest.raises((CheckpointError, UsageError), match=message):
            read_noise(tmp_path / "x", pipeline)


@pytest.mark.parametrize("noise", [torch.zeros(3, 8, 8), torch.full((3, *SIZE), torch.nan)])
def test_noise_of_another_shape_or_that_is_not_finite_is_refused(gaussian, tmp_path, noise):
    pipeline = pipeline_of(gaussian)
    write_noise(tmp_path / "x", pipeline, StoredNoise(noise, 1))
    with pytest.raises(CheckpointError, match=r"x: expected finite float32 noise of shape \(3, 16, 24\)"):
        read_noise(tmp_path / "x", pipeline)


def given(count=5, class_id=1):
    return [LabelledImage(number, f"{number}.png", image, class_id) for number, image in enumerate(pictures_u8(count))]


def test_a_gaussian_costs_what_its_closed_form_says(gaussian):
    pipeline = pipeline_of(gaussian, sigma_max=1e4)
    found = [one.bits_per_dim for one in bits_per_dim(pipeline, given(), tolerance=1e-5)]
    x = dequantise(pictures_u8(5), pipeline.seed, range(5))
    expected = gaussian.bits_per_dim_u8(x, pipeline.settings.sigma_min, mean=0.1)
    torch.testing.assert_close(torch.tensor(found).double(), expected, rtol=0, atol=1e-3)


def test_what_an_image_costs_does_not_depend_on_its_batch_and_does_on_the_seed(gaussian):
    def cost(batch_size, seed=5):
        return [one.bits_per_dim for one in bits_per_dim(pipeline_of(gaussian, seed, batch_size=batch_size), given())]

    assert cost(1) == pytest.approx(cost(4), abs=1e-9)
    assert cost(4) != pytest.approx(cost(4, seed=6), abs=1e-6)


def test_a_network_is_judged_through_its_own_gradients(tiny_recipe):
    network = HourglassTransformer(tiny_recipe.model)
    initialize(network, 3)
    torch.nn.init.normal_(network.patch_out.proj.weight, std=0.05, generator=torch.Generator().manual_seed(1))
    denoiser = Denoiser(network, tiny_recipe).eval().requires_grad_(False)
    few = [one.bits_per_dim for one in bits_per_dim(pipeline_of(denoiser), given(2), probes=1, tolerance=1e-2)]
    many = [one.bits_per_dim for one in bits_per_dim(pipeline_of(denoiser), given(2), probes=3, tolerance=1e-2)]
    assert all(5 < bits < 12 for bits in few) and few == pytest.approx(many, abs=0.05) and few != many


def test_guidance_has_no_likelihood(gaussian):
    with pytest.raises(UsageError, match="guided samples have no tractable density; omit it or set it to 1"):
        list(bits_per_dim(pipeline_of(gaussian, guidance=2.0), given()))


def test_dequantise_levels_are_spread_evenly_over_their_own_width():
    levels = pictures_u8(2)
    noisy = dequantise(levels, 3, [4, 9])
    shift = (noisy - from_uint8(levels)) * 127.5
    assert shift.min() >= -0.501 and shift.max() <= 0.501 and abs(shift.mean()) < 0.02
    assert abs(shift.var().item() - 1 / 12) < 0.005
    assert torch.equal(dequantise(levels[1:], 3, [9]), noisy[1:])


def test_the_tally_gives_mean_and_standard_error():
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


def test_a_folder_gives_its_images_without_a_class_and_one_class_where_one_is_said(tmp_path):
    folder = folder_of(tmp_path)
    found = open_labelled_images(str(folder), (*SIZE, 3), num_classes=3)
    images = list(found.images)
    assert (found.count, found.classes, [one.class_id for one in images]) == (4, "none", [3] * 4)
    assert [one.name for one in images] == ["0.png", "1.png", "2.png", "3.png"]
    assert (images[2].image_u8 == pictures_u8(4)[2]).all()
    assert [one.class_id for one in open_labelled_images(str(folder), (*SIZE, 3), 3, class_id=2).images] == [2] * 4
    assert [one.class_id for one in open_labelled_images(str(folder), (*SIZE, 3), 0).images] == [None] * 4


def test_images_of_another_size_are_cut_and_scaled(tmp_path):
    folder = folder_of(tmp_path, 2)
    Image.new("RGB", (100, 30)).save(folder / "wide.png")
    assert all(one.image_u8.shape == (8, 8, 3) for one in open_labelled_images(str(folder), (8, 8, 3), 0).images)
    assert [one.image_u8.shape for one in open_labelled_images(str(folder / "wide.png"), (*SIZE, 1), 0).images] == [
        (*SIZE, 1)
    ]


def test_some_of_many_are_drawn_by_the_seed(tmp_path):
    folder = str(folder_of(tmp_path, 8))
    chosen = [
        [one.index for one in open_labelled_images(folder, (*SIZE, 3), 0, n=3, seed=seed).images] for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2] and chosen[0] == sorted(set(chosen[0])) and len(chosen[0]) == 3
    with pytest.raises(DataError, match="--n 9: it has only 8 images"):
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


def test_the_sheet_of_a_folder_of_samples_is_not_judged(tmp_path):
    folder = folder_of(tmp_path, 2)
    (folder / "samples.json").write_text("{}")
    (folder / "grid.png").write_bytes(png_bytes(pictures_u8(1)[0]))
    assert open_labelled_images(str(folder), (*SIZE, 3), 0).count == 2


def test_what_cannot_be_judged_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no images in it"):
        open_labelled_images(str(tmp_path / "empty"), (*SIZE, 3), 0)
    folder = folder_of(tmp_path, 1)
    (folder / "x.png").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"x.png: cannot be scored \(.*\); remove or replace it"):
        list(open_labelled_images(str(folder), (*SIZE, 3), 0).images)
