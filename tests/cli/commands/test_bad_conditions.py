"""Conditions that do not fit the images or the network, from the shell: one line each, with the fix."""

import json

import numpy as np
import pytest

from hdit_cli.main import main
from hdit_core.recipe.read import check_recipe
from hdit_core.recipe.write import recipe_toml
from tests.generate.conditional import tables, write_network, write_pictures

SIZE = (16, 24)
VECTORS = {"v3": np.zeros((2, 3)), "v4": np.zeros((2, 4)), "nan": np.array([[0.0] * 4, [0, 0, np.nan, 0]])}
RECIPES = {
    "stored.toml": {"condition_channels": 3},
    "grey.toml": {"condition_channels": 1},
    "vector.toml": {"condition_channels": 0, "mapping_cond_dim": 4},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with networks, pictures, vectors, data sets and recipes."""
    folder = tmp_path_factory.mktemp("place")
    write_network(folder / "plain", condition_channels=0)
    write_network(folder / "cond")
    write_network(folder / "vec", condition_channels=0, mapping_cond_dim=4)
    write_network(folder / "both", mapping_cond_dim=4)
    write_network(folder / "fill", [{"kind": "mask"}], condition_channels=4)
    write_pictures(folder / "in", ["a.png", "b.png", "c.png"], SIZE)
    write_pictures(folder / "partial", ["a.png"], SIZE)
    write_pictures(folder / "flat", ["a.png", "b.png", "c.png"], (8, 24))
    np.save(folder / "four.npy", np.zeros((*SIZE, 4), np.uint8))
    for name, rows in VECTORS.items():
        np.save(folder / f"{name}.npy", rows)
    (folder / "nan.csv").write_text("file,v0,v1\na,1,2\nb,1,nan\nc,1,2\n")
    (folder / "short.csv").write_text("file,v0,v1\na,1,2\nb,1\n")
    (folder / "pair.csv").write_text("file,v0,v1\na,1,2\nb,3,4\n")
    prepare = ["prepare-data", str(folder / "in"), "--size", "16x24", "--workers", "1", "--out"]
    assert main([*prepare, str(folder / "set")]) == 0
    assert main([*prepare, str(folder / "pairs"), "--condition", str(folder / "in")]) == 0
    for name, model in RECIPES.items():
        (folder / name).write_text(recipe_toml(check_recipe(tables(**model), name)))
    return folder


SAMPLE = {
    ("plain", "--condition", "in"): "--condition in: the network was trained without condition images; leave it out",
    ("plain", "--vectors", "v4.npy"): "--vectors v4.npy: the network was trained without vectors; leave it out",
    ("cond",): "the network takes condition images of 3 channels, and none are given; see --condition",
    ("vec",): "the network takes vectors of 4 numbers, and none are given; see --vector",
    ("both", "--condition", "in"): "the network takes vectors of 4 numbers, and none are given; see --vector",
    ("both", "--vectors", "v4.npy"): "the network takes condition images of 3 channels, and none are given; see --con",
    ("vec", "--vectors", "v3.npy"): "v3.npy: has 2x3 numbers; expected N x 4, or 4 for all images",
    ("vec", "--vectors", "nan.npy"): "nan.npy: row 1 has NaN or infinite numbers; expected finite ones",
    (
        "vec",
        "--vectors",
        "in",
    ): "--vectors in: is no prepared data set; expected a .npy of N x 4 numbers, or",
    ("vec", "--vectors", "no.npy"): "--vectors no.npy: no such file; expected a .npy of N x 4 numbers, or a data set",
    ("vec", "--vectors", "set"): "set: has vectors of 0 numbers (0: none); the network takes 4, which hdit prepare-dat",
    ("cond", "--condition", "flat"): "flat: a.png: is a condition for images of 8x24, the samples are 16x24; give --s",
    ("cond", "--condition", "four.npy"): "four.npy: four.npy: an array of 16x24x4 numbers; expected height x width x",
    ("cond", "--condition", "set"): "set: has condition images of 0 channels (0: none), the recipe takes 3; prepare",
    ("fill", "--condition", "in"): "in: a.png: has no transparent pixels, which would be filled in; hdit restore takes",
    ("cond", "--condition", "in", "--set", "sample.condition_guidance=2"): "sample.condition_guidance = 2.0 needs a ne",
    ("vec", "--vectors", "v4.npy", "--set", "sample.vector_guidance=2"): "sample.vector_guidance = 2.0 needs a network",
}


def refused(place, capsys, monkeypatch, arguments):
    """Run a command that fails, and return what it says."""
    monkeypatch.chdir(place)
    capsys.readouterr()
    assert main(arguments) in (2, 3)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hdit: error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("case", SAMPLE)
def test_samples_of_other_conditions_than_the_network_takes_are_refused(place, capsys, monkeypatch, tmp_path, case):
    ckpt, *options = case
    command = ["sample", "--ckpt", ckpt, "--n", "1", "--out", str(tmp_path / "s"), "--device", "cpu", *options]
    assert SAMPLE[case] in refused(place, capsys, monkeypatch, command)


RESTORE = {
    ("plain", "in"): "the network was trained without condition images; generate with hdit sample or hdit edit",
    ("both", "in"): "the network takes vectors of 4 numbers, and none are given; see --vector",
    ("cond", "in", "--vectors", "v4.npy"): "--vectors v4.npy: the network was trained without vectors; leave it out",
    ("both", "in", "--vectors", "nan.npy"): "nan.npy: row 1 has NaN or infinite numbers; expected finite ones",
    ("cond", "four.npy"): "the first: four.npy: an array of 16x24x4 numbers; expected height x width x 3",
    ("fill", "in", "--mask", "flat"): "the first: a.png: the mask has 8x24 pixels, the image 16x24; use a mask of the",
    ("fill", "in", "--mask", "partial"): "could not restore 2 inputs; the first: b.png: has no mask of its name i",
}


@pytest.mark.parametrize("case", RESTORE)
def test_inputs_that_the_network_does_not_take_are_refused(place, capsys, monkeypatch, tmp_path, case):
    ckpt, *inputs = case
    command = ["restore", "--ckpt", ckpt, "--out", str(tmp_path / "r"), "--device", "cpu", *inputs]
    assert RESTORE[case] in refused(place, capsys, monkeypatch, command)


PREPARE = {
    ("--condition", "flat"): "a.png: its condition image has 8x24 pixels, the image 16x24; expected the same size, or",
    ("--condition", "in", "--condition-channels", "4"): "3 channels, expected 4 (--condition-channels)",
    ("--condition", "no"): "no: no such folder, archive or built-in data set",
    ("--vectors", "short.csv"): "short.csv:3: a vector of 1 numbers, expected 2 as the first line has columns",
    ("--vectors", "no.csv"): "--vectors no.csv: expected a .npy file with a .txt file of names next to it, a .csv, .ts",
    ("--condition", "partial", "--max-bad", "0"): "no condition image of its name, 'b.*', in partial",
    ("--vectors", "nan.csv", "--max-bad", "0"): "its vector has nan at position 1; expected finite numbers",
    ("--vectors", "pair.csv", "--max-bad", "0"): "no vector in pair.csv",
}


@pytest.mark.parametrize("case", PREPARE)
def test_pairs_that_do_not_fit_are_refused_or_rejected_with_the_reason(place, capsys, monkeypatch, tmp_path, case):
    out = tmp_path / "d"
    command = ["prepare-data", "in", "--size", "16x24", "--workers", "1", "--out", str(out), *case]
    line, rejects = refused(place, capsys, monkeypatch, command), out / "rejects.jsonl"
    reasons = [json.loads(row)["reason"] for row in rejects.read_text().splitlines()] if rejects.exists() else []
    assert any(PREPARE[case] in text for text in (line, *reasons))


TRAIN = {
    ("stored.toml", "set"): "set: has condition images of 0 channels (0: none), the recipe takes 3; prepare the data w",
    ("grey.toml", "pairs"): "pairs: has condition images of 3 channels (0: none), the recipe takes 1; prepare the data",
    ("vector.toml", "set"): "set: has vectors of 0 numbers (0: none), model.mapping_cond_dim is 4; prepare the data",
}


@pytest.mark.parametrize("case", TRAIN)
def test_data_sets_without_the_conditions_of_the_recipe_are_refused(place, capsys, monkeypatch, tmp_path, case):
    command = ["train", case[0], "--out", str(tmp_path / "run"), "--device", "cpu", "--set", f"data.path={case[1]}"]
    assert TRAIN[case] in refused(place, capsys, monkeypatch, command)
