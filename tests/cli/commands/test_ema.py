"""`hdit ema`, and EMA weights by their length in other commands."""

import json

import pytest

from hdit_cli.main import main
from hdit_core.checkpoint.ema.post_hoc import build_post_hoc_ema
from hdit_core.checkpoint.layout import ema_folder
from hdit_core.recipe.read import check_recipe
from hdit_core.train.run import train
from tests.conftest import TINY
from tests.generate.conditional import write_pictures


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_data):
    """A run with 12 snapshots of two averages."""
    followed = TINY["train"] | {"ema_profiles": [0.05, 0.1], "ema_snapshot_every_images": 8}
    recipe = check_recipe(TINY | {"data": TINY["data"] | {"path": str(tiny_data)}, "train": followed}, "followed")
    folder = tmp_path_factory.mktemp("followed") / "run"
    train(recipe, folder)
    return folder


def test_each_length_is_reconstructed_and_its_error_reported(run, capsys):
    assert main(["ema", "--std", "0.08", str(run), "--std", ".12", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["std"], row["num_images"], row["snapshots"]) for row in rows] == [(0.08, 96, 24), (0.12, 96, 24)]
    for row in rows:
        assert row["file"] == str(ema_folder(run) / f"post-hoc-{row['std']:.3f}.safetensors")
        made = build_post_hoc_ema(run, row["std"])
        assert (row["profile_error"], row["rounding"]) == (made.mixture.error, made.mixture.gain)
        assert row["profile_error"] < 0.02
    assert main(["ema", str(run), "--std", "0.08"]) == 0
    assert "profile_error" in capsys.readouterr().out


def test_one_length_can_be_written_elsewhere_and_several_cannot(run, tmp_path, capsys):
    out = tmp_path / "average.safetensors"
    assert main(["ema", str(run), "--std", "0.06", "--out", str(out)]) == 0 and out.exists()
    assert main(["ema", str(run), "--std", "0.06", "--std", "0.07", "--out", str(out)]) == 2
    assert "one file cannot hold 2 EMAs; remove it, or give one --std" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("length", "code", "message"),
    [
        ("0.0812", 2, "EMA length 0.0812: expected a number from 0.001 to 0.288"),
        ("0.3", 2, "EMA length 0.3: expected a number"),
        ("long", 2, "EMA length long: expected a number"),
        ("0.01", 2, "its 24 snapshots do not allow an EMA of length 0.010"),
    ],
)
def test_impossible_lengths_are_refused_before_any_is_reconstructed(run, capsys, length, code, message):
    before = set(ema_folder(run).iterdir())
    assert main(["ema", str(run), "--std", "0.11", "--std", length]) == code
    assert message in capsys.readouterr().err and set(ema_folder(run).iterdir()) == before


def test_a_folder_that_is_not_a_run_is_named(tmp_path, capsys):
    assert main(["ema", str(tmp_path / "nowhere"), "--std", "0.08"]) == 4
    assert "nowhere: no such run" in capsys.readouterr().err


def test_samples_use_an_ema_of_any_length(run, tmp_path, capsys):
    command = ["sample", "--ckpt", str(run), "--n", "3", "--device", "cpu", "--json"]
    assert main(["ema", str(run), "--std", "0.08"]) == 0
    hashes = []
    for weights in ("ema", "0.05", "0.08"):
        capsys.readouterr()
        assert main([*command, "--weights", weights, "--out", str(tmp_path / weights)]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["weights"] == weights
        hashes.append(result["origin"]["weights_sha256"])
    assert len(set(hashes)) == 3
    assert main([*command, "--weights", "emma", "--out", str(tmp_path / "no")]) == 2
    assert "weights emma: expected ema, model, or an EMA length" in capsys.readouterr().err


def test_a_tracked_ema_is_converted_by_its_length(run, tmp_path):
    target = tmp_path / "average.safetensors"
    assert main(["convert", str(run), str(target), "--weights", "0.1"]) == 0 and target.exists()


def test_ema_weights_of_a_conditional_run_are_reconstructed_and_restore_images(tmp_path, tiny_data, capsys):
    followed = TINY["train"] | {"ema_profiles": [0.05, 0.1], "ema_snapshot_every_images": 8}
    tables = TINY | {
        "model": TINY["model"] | {"condition_channels": 3, "num_classes": 0},
        "condition": {"degrade": [{"kind": "downscale", "factor": 2}]},
        "data": {"workers": 0, "path": str(tiny_data)},
        "train": followed,
    }
    train(check_recipe(tables, "conditional"), tmp_path / "run")
    assert main(["ema", str(tmp_path / "run"), "--std", "0.08"]) == 0
    out = ["--out", str(tmp_path / "out"), "--steps", "2", "--device", "cpu"]
    inputs = str(write_pictures(tmp_path / "in", ["a.png"], size=(8, 12)))
    assert main(["restore", inputs, "--ckpt", str(tmp_path / "run"), "--weights", "0.08", *out]) == 0
    assert (tmp_path / "out" / "a.png").is_file()


@pytest.mark.parametrize("name", ["notes.txt", "missing/a.safetensors"])
def test_a_file_of_another_kind_is_never_replaced_by_weights(run, tmp_path, capsys, name):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["ema", str(run), "--std", "0.06", "--out", str(tmp_path / name)]) == 2
    assert f"--out {tmp_path / name}: " in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"
