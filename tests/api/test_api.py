"""The API returns the same results as the commands."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import hdit_core
from hdit_cli.main import main
from hdit_core.api import generate, load_denoiser, prepare_data, score, train
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.generate.condition.sources import open_conditions
from hdit_core.recipe.write import recipe_toml
from tests.data.class_folders import write_pictures
from tests.generate.conditional import write_network
from tests.generate.conditional import write_pictures as write_images

EXTRACTOR = {"extractor": "efficientnet-lite0", "allow_small_n": True, "progress": False}


@pytest.fixture
def recipe(trained):
    return trained({"train.num_images": 16, "sample.steps": 2, "diffusion.sigma_data": 0.412})


@pytest.fixture
def run(recipe, tmp_path):
    """Return a run that the API trained."""
    return train(recipe, str(tmp_path / "run"), progress=False)


def test_the_api_is_an_attribute_of_the_package():
    assert hdit_core.api.train is train
    with pytest.raises(AttributeError, match="has no attribute 'apy'"):
        _ = hdit_core.apy
    with pytest.raises(AttributeError, match=r"module 'hdit_core\.api' has no attribute 'trane'"):
        _ = hdit_core.api.trane
    assert all(getattr(hdit_core.api, name) for name in dir(hdit_core.api))


def test_preparing_data_imports_no_torch_which_each_of_its_processes_would_load():
    code = "import hdit_core, sys; hdit_core.api.prepare_data; hdit_core.api.read_recipe; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_run_of_the_api_is_bit_identical_to_that_of_the_command(run, recipe, tmp_path):
    (tmp_path / "recipe.toml").write_text(recipe_toml(recipe))
    assert main(["train", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "b"), "--device", "cpu"]) == 0
    (ours, _), (theirs, _) = newest_checkpoint(run.folder), newest_checkpoint(tmp_path / "b")
    assert (run.step, run.num_images) == (2, 16) == (theirs.state.step, theirs.state.num_images)
    for name, tensor in ours.tensors("model").items():
        assert torch.equal(tensor, theirs.tensors("model")[name])


def test_a_run_is_forked_with_a_string_and_a_step(run, tmp_path):
    forked = train(f"{run.folder}/recipe.toml", tmp_path / "b", fork_from=f"{run.folder}@2", reset=["counter"])
    assert forked.step == 2 and (tmp_path / "b" / "lineage.json").exists()


def test_progress_and_messages_are_shown_unless_turned_off(recipe, tmp_path, capsys, monkeypatch):
    for name in ("", "hdit"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
    monkeypatch.setattr(logging.getLogger("hdit"), "level", logging.WARNING)
    train(recipe, tmp_path / "loud")
    shown = capsys.readouterr().err
    assert "hdit: train: 16 of 16 images" in shown and "step 2, loss 0." in shown
    assert f"hdit: saved {tmp_path}/loud/checkpoints/step-000000002" in shown
    train(recipe, tmp_path / "quiet", progress=False)
    assert capsys.readouterr() == ("", "")


def test_samples_equal_those_of_hdit_sample(run, tmp_path):
    samples = generate(run, 5, seed=3, steps=3, progress=False)
    command = ["sample", "--ckpt", str(run.folder), "--seed", "3", "--steps", "3", "--out", str(tmp_path / "samples")]
    assert main([*command, "-n", "5"]) == 0
    for index, image, image_u8 in zip(samples.indices, samples.to_pil(), samples.to_uint8(), strict=True):
        written = Image.open(tmp_path / "samples" / f"{index:08d}.png")
        assert np.array_equal(np.asarray(written), image_u8) and written.tobytes() == image.tobytes()
    assert samples.class_ids == [0, 1, 2, 0, 1] and len(samples) == 5
    assert repr(samples) == "<Samples: 5 images of 3x16x24>"


@pytest.fixture
def conditional(tmp_path):
    """A network that takes condition images of 3 channels and vectors, and files of both."""
    path = write_network(tmp_path / "net", [{"kind": "downscale", "factor": 2}], mapping_cond_dim=2)
    write_images(tmp_path / "small", ["a.png", "b.png"], size=(8, 12))
    np.save(tmp_path / "v.npy", np.array([[0.0, 3.0], [3.0, 0.0], [1.0, 1.0]], np.float32))
    return path


def test_conditional_samples_from_paths_and_arrays_equal_those_of_hdit_sample(conditional, tmp_path):
    given = {"condition": tmp_path / "small", "vector": str(tmp_path / "v.npy")}
    options = [word for name, path in given.items() for word in (f"--{name}", str(path))]
    command = ["sample", "--ckpt", str(conditional), "--n", "5", "--out", str(tmp_path / "s"), "--device", "cpu"]
    assert main([*command, *options]) == 0
    samples = generate(conditional, 5, **given, progress=False)
    for index, image_u8 in zip(samples.indices, samples.to_uint8(), strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "s" / f"{index:08d}.png")), image_u8)
    assert not torch.equal(samples.images[0], samples.images[2])
    recipe = load_denoiser(conditional).recipe
    inputs = open_conditions(recipe, (16, 24), 0, str(tmp_path / "small"), tmp_path / "v.npy")(list(range(6)))
    arrays = {"condition": inputs.condition[:2], "vector": np.load(tmp_path / "v.npy")}
    assert torch.equal(generate(conditional, 5, **arrays, progress=False).images, samples.images)
    one = {"condition": inputs.condition[0], "vector": arrays["vector"][0]}
    assert torch.equal(generate(conditional, 1, **one, progress=False).images, samples.images[:1])


def test_conditions_of_other_shapes_are_refused_in_one_line(conditional):
    image, vector = torch.zeros(3, 16, 24), torch.zeros(2)
    cases = [
        ({"condition": image, "vector": torch.zeros(0, 2)}, r"^vector: an array of shape \[0, 2\]; expected \[N, E\]"),
        (
            {"condition": image[0], "vector": vector},
            r"^condition: an array of shape \[16, 24\]; expected \[N, K, H, W\]",
        ),
        ({"condition": image, "vector": torch.zeros(3)}, r"^vectors of shape \[1, 3\]; this network takes \[1, 2\]"),
        ({"condition": image}, "^the network takes vectors of 2 numbers, and none are given"),
    ]
    for given, message in cases:
        with pytest.raises(hdit_core.errors.UsageError, match=message):
            generate(conditional, 1, **given, progress=False)


def test_values_beyond_the_range_of_a_pixel_are_clipped_and_do_not_wrap_around():
    samples = hdit_core.api.Samples([0], None, torch.tensor([-1.1, 0.0, 1.39]).view(1, 1, 1, 3))
    assert samples.to_uint8().tolist() == [[[[0], [128], [255]]]]


def test_the_denoiser_has_the_sampling_defaults_of_the_run(run):
    (run.folder / "sample.toml").write_text('weights = "model"\n[sample]\nsteps = 7\n')
    denoiser, raw = load_denoiser(run), hdit_core.checkpoint.load_denoiser(run.folder, weights="model")
    (run.folder / "sample.toml").unlink()
    assert denoiser.recipe.sample.steps == 7
    assert all(tensor.equal(raw.state_dict()[name]) for name, tensor in denoiser.state_dict().items())
    ema = hdit_core.checkpoint.load_denoiser(run.folder)
    assert not all(tensor.equal(raw.state_dict()[name]) for name, tensor in ema.state_dict().items())


def test_samples_in_memory_score_as_those_on_disk(run, recipe, tmp_path, capsys):
    samples, folder = generate(run, 6, progress=False), tmp_path / "pictures"
    folder.mkdir()
    for index, image in enumerate(samples.to_pil()):
        image.save(folder / f"{index}.png")
    result = score(samples, recipe.data.path, **EXTRACTOR)
    assert result.value == score(folder, recipe.data.path, **EXTRACTOR).value == result.frechet.value
    command = ["eval-fid", str(folder), "--ref", recipe.data.path, "--extractor", "efficientnet-lite0", "--json"]
    assert main([*command, "--allow-small-n"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == result.value
    model = {"run": str(run.folder), "step": 2, "images_seen": 16, "weights": "ema"}
    assert result.to_json()["passport"]["images"]["model"] == model
    assert repr(result) == f"<Score: fd-efficientnet-lite0-6 {result.value:.4f}>"


def test_images_are_prepared_with_the_settings_of_the_command(tmp_path, capsys):
    pictures = write_pictures(tmp_path / "pictures")
    summary = prepare_data(pictures, tmp_path / "a", size=(8, 12), channels=1, labels="none", min_size=3)
    assert "hdit: preparing: 25 of 25 images" in capsys.readouterr().err
    options = ["--size", "8x12", "--channels", "1", "--labels", "none", "--min-size", "3", "--json"]
    assert main(["prepare-data", str(pictures), "--out", str(tmp_path / "b"), *options]) == 0
    assert json.loads(capsys.readouterr().out)["root"] == summary.root
