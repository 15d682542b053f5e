"""`hdit train`, `hdit sample` and `hdit convert` from the shell: results on stdout, the rest on stderr, exit codes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from hdit_cli.main import main
from hdit_core.checkpoint import load_denoiser
from hdit_core.recipe.write import recipe_toml
from tests.conftest import REFERENCE
from tests.forked_command import run_hdit


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_data):
    """A run that the command trained."""
    folder = tmp_path_factory.mktemp("cli")
    recipe = write_recipe(folder, tiny_data)
    assert main(["train", str(recipe), "--out", str(folder / "run"), "--set", "train.num_images=16"]) == 0
    return folder / "run"


def write_recipe(folder, data, **tables):
    from hdit_core.recipe.read import check_recipe
    from tests.conftest import TINY

    path = folder / "tiny.toml"
    path.write_text(recipe_toml(check_recipe(TINY | {"data": TINY["data"] | {"path": str(data)}} | tables, "tiny")))
    return path


def test_train_prints_its_result_as_json_and_progress_on_stderr(tmp_path, tiny_data, capsys):
    recipe, run = write_recipe(tmp_path, tiny_data), tmp_path / "run"
    command = ["train", str(recipe), "--out", str(run), "--json", "--set"]
    assert main([*command, "train.num_images=16"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["num_images"] == 16
    assert "16 of 16 images" in captured.err
    assert main([*command, "train.num_images=32"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["step"] == 4 and "resuming" in captured.err
    assert main([*command, "train.num_images=32"]) == 0
    assert "train: 32 of 32 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "nothing.toml"], 2, "no such recipe file"),
        (["train", "mnist32", "--set", "train.batch_sise=3"], 2, "did you mean 'batch_size'"),
        (["train", "mnist32", "--set", "data.path=nowhere"], 3, "nowhere"),
        (["train", "mnist32", "--device", "cuda:9"], 2, "this machine has no such device"),
        (["sample", "--ckpt", "nowhere"], 4, "no such run, checkpoint or file"),
        (["convert", "nowhere.safetensors", "x.safetensors"], 4, "no such run, checkpoint or file"),
        (["convert", "nowhere.pth", "x.safetensors"], 2, "--i-trust-this-pickle"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "mnist32").mkdir(parents=True)
    (tmp_path / "data" / "mnist32" / "manifest.json").touch()
    assert main(arguments) == code
    captured = capsys.readouterr()
    complaints = [line for line in captured.err.splitlines() if "error" in line]
    assert len(complaints) == 1 and message in complaints[0] and not captured.out


def test_sample_generates_the_requested_images(run, tmp_path, capsys):
    out = tmp_path / "samples"
    options = ["--n", "5", "--class", "1", "--steps", "2", "--size", "24x16", "--seed", "9", "--guidance", "2"]
    assert main(["sample", "--ckpt", str(run), *options, "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    origin = record["origin"]
    assert (record["run"], record["step"], record["weights"]) == (str(run), 2, "ema")
    assert (record["num_images"], record["images"], origin["seed"], origin["settings"]["steps"]) == (5, "0-4", 9, 2)
    assert json.loads((out / "samples.json").read_text())["class_ids"] == [1] * 5
    assert np.asarray(Image.open(out / "00000004.png")).shape == (24, 16, 3)
    assert out.with_name(f"{out.name}-grid.png").exists()


def test_sample_resumes_its_folder_and_refuses_another_job_in_it(run, tmp_path, capsys):
    command = ["sample", "--ckpt", str(run), "--steps", "2", "--out", str(tmp_path / "s")]
    assert main([*command, "--n", "3"]) == 0
    first = (tmp_path / "s" / "00000001.png").stat()
    assert main([*command, "--seeds", "1,5-6", "--grid", "1x2"]) == 0
    assert (tmp_path / "s" / "00000001.png").stat().st_mtime_ns == first.st_mtime_ns
    assert "0-2,5-6" in capsys.readouterr().out
    assert main([*command, "--guidance", "2"]) == 2
    assert "other settings (old -> new): guidance 1.0 -> 2.0. Choose" in capsys.readouterr().err


def test_sample_streams_a_tar_to_stdout_and_its_result_to_stderr(run, tmp_path):
    command = ["sample", "--ckpt", str(run), "--n", "3", "--steps", "2", "--json"]
    piped = run_hdit(*command, "--out", "-")
    assert main([*command[:-1], "--out", str(tmp_path / "x.tar")]) == 0
    assert piped.returncode == 0 and piped.stdout == (tmp_path / "x.tar").read_bytes()
    assert b'"num_images": 3' in piped.stderr
    assert main([*command, "--out", str(tmp_path / "x.npz"), "--trajectory", str(tmp_path / "x.webp")]) == 0
    assert np.load(tmp_path / "x.npz")["arr_0"].shape == (3, 16, 24, 3)
    assert Image.open(tmp_path / "x.webp").n_frames > 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--class", "7"], "class 7: the network has the classes 0 to 2"),
        (["--size", "17"], "height 17 is not a multiple of 4"),
        (["--sampler", "dpmpp3m"], "did you mean"),
        (["--size", "huge"], "expected pixels"),
        (["--seeds", "3-1"], "--indices 3-1: expected indices and ranges"),
        (["--grid", "4"], "--grid 4: expected ROWSxCOLUMNS, for example 4x8"),
        (["--budget", "soon"], "--budget soon: expected a time such as 90s, 10m or 2h"),
        (["--budget", "0s"], "--budget 0s: expected a time"),
        (["--trajectory", "x.gif"], "expected a name that ends in .webp"),
        (["--trajectory", "nowhere/x.webp"], "there is no folder nowhere"),
        (["--out", "x.npz", "--budget", "9s"], "an npz declares its number of images in advance"),
        (["--out", "x.tar", "--grid", "2x2"], "only a folder has a grid"),
    ],
)
def test_sample_refuses_what_the_network_cannot(run, tmp_path, capsys, option, message):
    count = [] if "--seeds" in option else ["--n", "1"]
    assert main(["sample", "--ckpt", str(run), *count, "--out", str(tmp_path / "s"), *option]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_sample_takes_a_checkpoint_folder_a_step_and_a_file(run, tmp_path):
    folder = next(iter((run / "checkpoints").iterdir()))
    shutil.copy(folder / "ema.safetensors", tmp_path / "weights.safetensors")
    for place, ckpt in enumerate((run, folder, f"{run}@2", tmp_path / "weights.safetensors")):
        arguments = ["--n", "2", "--steps", "2", "--out", str(tmp_path / str(place))]
        assert main(["sample", "--ckpt", str(ckpt), *arguments]) == 0
    pictures = {(tmp_path / str(place) / "00000001.png").read_bytes() for place in range(4)}
    assert len(pictures) == 1


@pytest.mark.parametrize("name", ["neighborhood", "shifted_window", "global"])
def test_converting_there_and_back_keeps_every_bit_and_the_config(tmp_path, name):
    source, ours, back = REFERENCE / f"{name}.safetensors", tmp_path / "ours", tmp_path / "back"
    assert main(["convert", str(source), str(ours)]) == 0
    assert main(["convert", str(ours), str(back), "--to", "k-diffusion"]) == 0
    before, after = load_file(source), load_file(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    with safe_open(source, "pt") as old, safe_open(back, "pt") as new:
        assert old.metadata() == new.metadata()


def test_a_run_converts_to_k_diffusions_format_and_back(run, tmp_path):
    theirs, ours = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    assert main(["convert", str(run), str(theirs), "--to", "k-diffusion", "--weights", "model"]) == 0
    assert main(["convert", str(theirs), str(ours)]) == 0
    trained, back = (load_denoiser(path, weights="model").network.state_dict() for path in (run, ours))
    assert trained.keys() == back.keys() and all(torch.equal(trained[key], back[key]) for key in trained)


def test_convert_never_replaces_a_file(tmp_path, capsys):
    target = tmp_path / "precious"
    target.write_text("years of work")
    assert main(["convert", str(REFERENCE / "global.safetensors"), str(target)]) == 2
    assert "already exists and is never replaced" in capsys.readouterr().err and target.read_text() == "years of work"


class Payload:
    """What a pickle can do to its reader."""

    def __reduce__(self):
        return Path.touch, (Path("/tmp/hdit-test-payload-ran"),)


def test_a_training_checkpoint_is_read_when_its_pickle_is_trusted_and_runs_nothing_even_then(tmp_path, capsys):
    source = REFERENCE / "global.safetensors"
    with safe_open(source, "pt") as file:
        config = json.loads(file.metadata()["config"])
    content = {"config": config, "model": load_file(source), "model_ema": load_file(source), "step": 7}
    torch.save(content, tmp_path / "train.pth")
    command = ["convert", "--i-trust-this-pickle", str(tmp_path / "train.pth"), str(tmp_path / "ours.safetensors")]
    assert main(command) == 0
    assert load_denoiser(tmp_path / "ours.safetensors").recipe == load_denoiser(source).recipe
    torch.save(content | {"step": Payload()}, tmp_path / "train.pth")
    command[-1] = str(tmp_path / "more.safetensors")
    assert main(command) == 4
    assert "not a training checkpoint of k-diffusion" in capsys.readouterr().err
    assert not Path("/tmp/hdit-test-payload-ran").exists()
