"""`hdit edit` takes its model, settings and guide as `hdit sample` does."""

import io
import json
import shutil
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from hdit_cli.main import main
from hdit_core.generate.settings import write_defaults
from hdit_core.recipe.read import check_recipe
from tests.conftest import REFERENCE, TINY
from tests.generate.smooth_network import write_smooth_network

RUN = REFERENCE / "neighborhood.safetensors"  # random weights everywhere, so that guidance has a visible effect


@pytest.fixture(scope="module")
def worse(tmp_path_factory):
    """Another model of the same images."""
    path = tmp_path_factory.mktemp("guide") / "worse.safetensors"
    with safe_open(RUN, "pt") as file:
        save_file({name: 0.9 * file.get_tensor(name) for name in file.keys()}, path, file.metadata())  # noqa: SIM118
    return str(path)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The working folder, with a model that can have defaults and a picture of its size."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    shutil.copy(RUN, tmp_path / "model" / "weights.safetensors")
    assert main(["sample", "--ckpt", "model", "--n", "1", "--steps", "2", "--out", "s", "--device", "cpu"]) == 0
    shutil.copy("s/00000000.png", "picture.png")
    return tmp_path


@pytest.fixture
def easy(tmp_path, monkeypatch):
    """The working folder, with a picture and a model of small outputs, whose ODE is solved quickly."""
    monkeypatch.chdir(tmp_path)
    write_smooth_network(tmp_path / "easy" / "weights.safetensors", check_recipe(TINY, "easy"))
    Image.new("RGB", (24, 16), "teal").save("picture.png")
    return "easy"


def two(out):
    return [np.asarray(Image.open(f"{out}/{number:08d}.png")) for number in (0, 1)]


@pytest.mark.parametrize(
    "led",
    [
        ["--set", "sample.schedule=vp"],
        ["--guidance", "3", "--guidance-interval", "0.1,90", "--guidance-rescale", "0.9"],
        ["--guide", "WORSE", "--guide-weights", "model", "--autoguidance", "3"],
    ],
    ids=["set", "interval", "guide"],
)
def test_the_ends_of_an_interpolation_equal_the_samples_of_the_same_options(model, worse, led):
    options = ["--ckpt", "model", "--steps", "3", "--device", "cpu"]
    way = ["edit", "interpolate", "0", "1", "--frames", "2", *options]
    given = [worse if word == "WORSE" else word for word in led]
    assert main(["sample", "--n", "2", *options, *given, "--out", "led"]) == 0
    assert main([*way, *given, "--out", "way"]) == main([*way, "--out", "plain"]) == 0
    assert np.array_equal(two("led"), two("way")) and not np.array_equal(two("way"), two("plain"))
    assert json.loads((model / "way" / "samples.json").read_text())["origin"]["edit"]["kind"] == "interpolate"


@pytest.mark.parametrize("words", [["vary", "--init", "picture.png"], ["inpaint", "picture.png", "picture.png"]])
def test_a_guide_affects_every_edit_and_is_recorded(model, worse, words):
    command = ["edit", *words, "--ckpt", "model", "--steps", "2", "--n", "2", "--device", "cpu"]
    assert main([*command, "--guide", worse, "--out", "led"]) == main([*command, "--out", "plain"]) == 0
    guide = json.loads((model / "led" / "samples.json").read_text())["origin"]["guide"]
    assert guide["weight"] == 2 and not np.array_equal(two("led"), two("plain"))


def test_the_winner_of_a_sweep_is_the_default_of_edits_too(model, capsys):
    write_defaults(model / "model", "ema", {"guidance": 3.0}, "found")
    command = ["edit", "vary", "--init", "picture.png", "--ckpt", "model", "--steps", "2", "--n", "1", "--json"]
    assert main([*command, "--out", "a"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["origin"]["settings"]["guidance"] == 3.0
    assert "sample.toml: weights=ema, guidance=3.0" in captured.err
    assert main([*command, "--guidance", "1", "--out", "b"]) == 0
    assert json.loads(capsys.readouterr().out)["origin"]["settings"]["guidance"] == 1.0


def test_noise_records_the_guidance_it_was_found_with(easy, capsys):
    led = ["--guide", easy, "--autoguidance", "1.5", "--guidance-rescale", "0.5"]
    command = ["edit", "invert", "picture.png", "--ckpt", easy, "--tolerance", "1e-1", "--device", "cpu"]
    assert main([*command, *led, "--out", "led.safetensors"]) == 0
    way = ["edit", "interpolate", "led.safetensors", "1", "--ckpt", easy, "--frames", "2", "--sampler", "euler"]
    assert main([*way, "--steps", "2"]) == 2
    assert "its noise was made with another guidance_rescale; invert the image again" in capsys.readouterr().err
    assert main([*way, *led, "--steps", "2"]) == 0


def test_a_likelihood_ignores_the_runs_guidance_and_refuses_guidance_options(easy, capsys):
    command = ["edit", "likelihood", "picture.png", "--ckpt", easy, "--tolerance", "1e-1", "--device", "cpu"]
    assert main([*command, "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    write_defaults(Path(easy), "model", {"guidance": 3.0, "guidance_interval": [0.1, 9.0]}, "found")
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == expected  # the file does not record the kind of its weights
    assert "easy/sample.toml: weights=model\n" in captured.err
    assert main([*command, "--set", "sample.guidance=2"]) == 2
    assert "sample.guidance = 2.0: guided samples have no tractable density" in capsys.readouterr().err
    assert main([*command, "--set", "sample.sigma_min=0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_dim"] != expected["bits_per_dim"]


def test_unknown_settings_are_refused_before_anything_is_sampled(model, capsys):
    command = ["edit", "vary", "--init", "picture.png", "--ckpt", "model", "--out", "v"]
    for more, message in (
        (["--set", "train.lr=1"], "only keys of [sample] apply to sampling"),
        (["--autoguidance", "2"], "--autoguidance 2.0: needs a weaker model"),
        (["--guidance-interval", "3"], "--guidance-interval 3: expected LOW:HIGH"),
        (["--size", "3,4"], "--size 3,4: expected pixels"),
    ):
        assert main([*command, *more]) == 2
        assert message in capsys.readouterr().err and not (model / "v").exists()


def test_a_likelihood_of_no_images_is_an_error(easy, capsys, monkeypatch):
    content = io.BytesIO()
    tarfile.open(fileobj=content, mode="w").close()
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content.getvalue())))
    assert main(["edit", "likelihood", "-", "--ckpt", easy, "--device", "cpu"]) == 3
    captured = capsys.readouterr()
    assert "error: -: holds no images" in captured.err and not captured.out


def test_more_images_than_fit_into_memory_are_refused(model, capsys):
    assert main(["edit", "vary", "picture.png", "--ckpt", "model", "--count", "1000000000000", "--out", "v"]) == 2
    assert "Input should be less than or equal to 10000000" in capsys.readouterr().err
