"""Inversion of images to noise, against closed forms, and noise files."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from hdit_core.checkpoint.safetensors_file import read_tensors, write_tensors
from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.probability_flow import solve_pf_ode
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.generate.edit.interpolate import interpolate, parse_endpoint
from hdit_core.generate.edit.invert import StoredNoise, invert, read_noise, write_noise
from hdit_core.images import from_uint8
from hdit_core.randomness import stream
from tests.generate.edit.pictures import SIZE, pictures_u8, pipeline_of
from tests.generate.exact_denoiser import GaussianDenoiser


@pytest.fixture
def gaussian(tiny_recipe):
    return GaussianDenoiser(tiny_recipe, mean=0.1, std=0.4)


def picture():
    return from_uint8(pictures_u8())


def test_the_ode_transports_a_gaussian_as_its_closed_form_does(gaussian):
    x = picture().double()
    up = solve_pf_ode(lambda x, sigma: gaussian(x, sigma), x, 0.01, 80.0, rtol=1e-8, atol=1e-8)
    expected = 0.1 + (x - 0.1) * ((0.4**2 + 80.0**2) / (0.4**2 + 0.01**2)) ** 0.5  # with mean 0.1 at any level
    torch.testing.assert_close(up.x, expected, rtol=1e-6, atol=1e-5)
    down = solve_pf_ode(lambda x, sigma: gaussian(x, sigma), up.x, 80.0, 0.01, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(down.x, x, rtol=0, atol=1e-6)
    assert up.num_evaluations > 10 and down.num_evaluations > 10


def test_between_equal_noise_levels_an_image_stays(gaussian):
    found = solve_pf_ode(lambda x, sigma: gaussian(x, sigma), picture().double(), 2.0, 2.0)
    torch.testing.assert_close(found.x, picture().double(), rtol=1e-15, atol=1e-15)
    assert found.num_evaluations == 0


def test_inversion_of_an_image_does_not_depend_on_its_batch(gaussian):
    both = from_uint8(pictures_u8(2)).double()
    together = solve_pf_ode(lambda x, sigma: gaussian(x, sigma), both, 0.01, 80.0).x
    alone = solve_pf_ode(lambda x, sigma: gaussian(x, sigma), both[1:], 0.01, 80.0).x
    torch.testing.assert_close(together[1:], alone, rtol=1e-12, atol=1e-12)


def test_an_image_is_reconstructed_from_its_noise_and_more_closely_with_a_smaller_tolerance(gaussian):
    errors = [invert(pipeline_of(gaussian), picture(), [1], tolerance).error_levels for tolerance in (1e-2, 1e-4, 1e-6)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-2 and errors[1] < 0.1
    found = invert(pipeline_of(gaussian), picture(), [1], 1e-6)
    assert found.largest_error_levels < 0.05 and found.psnr_db > 80 and found.num_evaluations > 20
    assert (found.back - picture()[0]).abs().max() < 1e-3


def test_the_noise_of_images_of_a_gaussian_is_standard_normal(gaussian):
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


def test_stored_noise_gives_its_image_again(gaussian, tmp_path):
    pipeline = pipeline_of(gaussian, sampler="heun", steps=60)
    path, _ = stored(tmp_path, pipeline)
    draw = interpolate(pipeline, parse_endpoint(str(path), pipeline), parse_endpoint("4", pipeline, 1), frames=3)
    back = draw([0], None)
    assert ((back - picture()).abs() * 127.5).mean() < 3


@pytest.mark.parametrize(
    ("changes", "key"), [({"sigma_max": 60.0}, "sigma_max"), ({"guidance": 2.0}, "guidance"), ({}, "weights_sha256")]
)
def test_noise_of_other_weights_or_settings_is_refused(gaussian, tmp_path, changes, key):
    path, _ = stored(tmp_path, pipeline_of(gaussian))
    if not changes:
        torch.nn.init.constant_(gaussian.network.weight, 3.0)
    with pytest.raises(UsageError, match=f"its noise was made with another {key}; invert the image again"):
        read_noise(path, pipeline_of(gaussian, **changes))


def test_noise_records_its_guidance_and_a_file_without_a_record_has_none(gaussian, tmp_path):
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


def test_a_class_in_a_file_is_refused_for_a_network_without_classes(changed, tmp_path):
    pipeline = pipeline_of(GaussianDenoiser(changed({"model.num_classes": 0}), mean=0.1, std=0.4))
    write_noise(tmp_path / "x", pipeline, StoredNoise(torch.zeros(3, *SIZE), 0))
    with pytest.raises(CheckpointError, match=r"x: expected finite float32 noise of shape .* and a valid class"):
        read_noise(tmp_path / "x", pipeline)
