"""`hdit data verify` and `hdit data show`, and `hdit prepare-data` in tasks, from the command line."""

import json

import numpy as np
import pytest
from PIL import Image

from hdit_cli.main import main
from tests.data.conditioned_set import RANGES, write_conditioned_set


@pytest.fixture
def run(capsys):
    """Return a function that runs hdit and gives its exit code, stdout and stderr."""

    def call(*args):
        code = main([str(arg) for arg in args])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def photos(tmp_path):
    """Return a folder of 12 pictures of two shapes in two class folders, and a file that is none."""
    random = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "photos" / ("cat", "dog")[number % 3 == 0] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (20, 30, 3) if number % 2 else (30, 20, 3)
        Image.fromarray(random.integers(0, 256, size, np.uint8)).save(path)
    (tmp_path / "photos" / "cat" / "x.jpg").write_text("no image")
    return tmp_path / "photos"


@pytest.fixture
def prepare(run, photos, tmp_path, monkeypatch):
    """Return a function that runs hdit prepare-data on the photos."""
    for name in ("SLURM_ARRAY_TASK_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    fixed = ("prepare-data", photos, "--out", tmp_path / "set", "--workers", 1, "--shard-size", 4)
    return lambda *more: run(*fixed, *(more if "--size" in more else ("--size", "8x12", *more)))


def test_an_undamaged_set_is_reported_as_such(prepare, run, tmp_path):
    prepare()
    for level in ((), ("--quick",), ("--deep", "--workers", 2)):
        code, out, err = run("data", "verify", tmp_path / "set", *level)
        assert code == 0
        assert "damaged   nothing" in out and "checksum  " in out
        assert "verifying: 12 of 12 images" in err


def test_every_damaged_part_is_named_and_the_exit_code_is_3(prepare, run, tmp_path):
    prepare()
    (tmp_path / "set" / "shard-000001.tar").unlink()
    (tmp_path / "set" / "index.npy").write_bytes(b"")
    code, out, err = run("data", "verify", tmp_path / "set")
    assert code == 3
    assert "index.npy: has 0 bytes" in out
    assert "shard-000001.tar: cannot be read (No such file or directory)" in out
    assert "set: damaged: 2 parts; prepare or copy the data again" in err


def test_json_output_lists_the_damage(prepare, run, tmp_path):
    prepare()
    (tmp_path / "set" / "hashes.npy").unlink()
    code, out, _ = run("data", "verify", tmp_path / "set", "--json")
    assert code == 3
    verdict = json.loads(out)
    assert verdict["damages"] == [{"file": "hashes.npy", "problem": "cannot be read (No such file or directory)"}]
    assert (verdict["level"], verdict["images"], verdict["shards"]) == ("full", 12, 4)


def test_two_verification_levels_at_once_are_refused(run, tmp_path):
    code, _, err = run("data", "verify", tmp_path, "--quick", "--deep")
    assert code == 2
    assert "--quick, --deep: expected at most one of them" in err


def test_show_prints_the_contents_of_a_set(prepare, run, tmp_path):
    prepare("--size", "8x12,12x8", "--background", "#102030")
    code, out, _ = run("data", "show", tmp_path / "set")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["of", "8x12", "pixels", "6"] in lines
    assert ["of", "12x8", "pixels", "6"] in lines
    assert ["background", "#102030"] in lines
    assert ["0", "cat", "8", "#" * 40] in lines
    assert ["1", "dog", "4", "#" * 20] in lines


def test_json_output_has_the_contents_of_a_set(prepare, run, tmp_path):
    prepare("--size", "8x12,12x8")
    shown = json.loads(run("data", "show", tmp_path / "set", "--json")[1])
    assert shown["sizes"] == [{"height": 8, "width": 12, "samples": 6}, {"height": 12, "width": 8, "samples": 6}]
    assert shown["classes"] == [{"name": "cat", "images": 8}, {"name": "dog", "images": 4}]
    assert shown["source"] == {"kind": "folder", "name": "photos", "inputs": 13}
    assert shown["left_out"] == 1


def test_show_prints_the_attachments_and_types_of_the_images(run, tmp_path):
    write_conditioned_set(tmp_path / "set")
    code, out, _ = run("data", "show", tmp_path / "set")
    assert code == 0
    assert "5, 4 channels of uint16 in 0..1000 0..65535 10..20 0..1, npy" in out
    assert "condition images of 2 channels of float32 in -4..4, npy, vectors of 3 numbers, captions" in out
    result = json.loads(run("data", "show", tmp_path / "set", "--json")[1])
    assert (result["dtype"], result["range"]) == ("uint16", [list(pair) for pair in RANGES])
    condition = {"channels": 2, "format": "npy", "dtype": "float32", "range": [[-4.0, 4.0]]}
    assert (result["condition"], result["vector_dim"], result["captions"]) == (condition, 3, True)


def test_json_output_of_an_8_bit_set_has_no_attachments(prepare, run, tmp_path):
    prepare()
    result = json.loads(run("data", "show", tmp_path / "set", "--json")[1])
    assert (result["dtype"], result["range"]) == ("uint8", [[0.0, 255.0]])
    assert (result["condition"], result["vector_dim"], result["captions"]) == (None, 0, False)


def test_a_damaged_index_of_condition_images_and_damaged_vectors_are_found(run, tmp_path):
    write_conditioned_set(tmp_path / "set")
    assert run("data", "verify", tmp_path / "set")[0] == 0
    for name in ("condition.npy", "vectors.npy"):
        content = bytearray((tmp_path / "set" / name).read_bytes())
        content[-3] ^= 1
        (tmp_path / "set" / name).write_bytes(content)
    code, out, _ = run("data", "verify", tmp_path / "set")
    assert code == 3
    assert "condition.npy: altered: its SHA-256 differs from the manifest" in out
    assert "vectors.npy: altered: its SHA-256 differs from the manifest" in out


def test_many_classes_are_shown_by_their_sizes(run, tmp_path):
    for number in range(50):
        for copy in range(1 + number % 3):
            path = tmp_path / "many" / f"class-{number}" / f"{copy}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (number, copy, 0)).save(path)
    run("prepare-data", tmp_path / "many", "--out", tmp_path / "set", "--size", 4, "--workers", 1)
    out = run("data", "show", tmp_path / "set")[1]
    assert "class-7" not in out
    lines = [line.split() for line in out.splitlines()]
    assert ["1", "to", "1", "images", "17", "classes", "#" * 14] in lines
    assert ["3", "to", "3", "images", "16", "classes", "#" * 13] in lines


def test_class_names_cannot_act_on_the_terminal(run, tmp_path):
    path = tmp_path / "odd" / "a\x1b[31m" / "0.png"
    path.parent.mkdir(parents=True)
    (tmp_path / "odd" / "b").mkdir()
    for name in (path, tmp_path / "odd" / "b" / "1.png"):
        Image.new("RGB", (4, 4)).save(name)
    run("prepare-data", tmp_path / "odd", "--out", tmp_path / "set", "--size", 4, "--workers", 1)
    assert "\x1b" not in run("data", "show", tmp_path / "set")[1]


def test_the_contact_sheet_is_written(prepare, run, tmp_path):
    prepare()
    code, _, err = run("data", "show", tmp_path / "set", "--sheet", tmp_path / "sheet.png", "--count", 5)
    assert code == 0
    assert f"wrote {tmp_path}/sheet.png" in err
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.format == "PNG"


def test_a_contact_sheet_is_a_png(prepare, run, tmp_path):
    prepare()
    code, _, err = run("data", "show", tmp_path / "set", "--sheet", tmp_path / "sheet.jpg")
    assert code == 2
    assert "sheet.jpg: expected a name that ends in .png" in err


def test_a_folder_without_a_data_set_is_reported(run, tmp_path):
    code, _, err = run("data", "show", tmp_path)
    assert code == 3
    assert "manifest.json: not found; expected a finished data set of `hdit prepare-data`" in err


def test_tasks_are_combined_into_one_set(prepare, run, tmp_path):
    code, out, err = prepare("--task", "0/2", "--json")
    assert code == 0
    assert json.loads(out)["task"] == "0/2"
    assert "task 0/2 is done; once all are, run the same command with --finish to merge the parts" in err
    code, _, err = prepare("--finish")
    assert code == 3
    assert "run again: --task 1/2" in err
    assert "shards" in prepare("--task", "1/2")[1]
    code, out, err = prepare("--finish", "--json")
    assert code == 0
    assert json.loads(out)["images"] == 12
    assert "verifying: 13 of 13 images" in err
    assert run("data", "verify", tmp_path / "set", "--deep")[0] == 0


def test_the_slurm_task_is_used_unless_the_option_turns_it_off(prepare, monkeypatch):
    for name, value in {"ID": "3", "COUNT": "3", "MIN": "1", "MAX": "3", "STEP": "1"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    code, out, err = prepare("--json")
    assert code == 0
    assert json.loads(out)["task"] == "2/3"
    assert "task 2/3 of this Slurm job; --task 0/1 would process everything in this process" in err
    code, out, err = prepare("--task", "0/1", "--json")
    assert code == 0
    assert json.loads(out)["images"] == 12
    code, out, err = prepare("--finish", "--json")
    assert json.loads(out)["already_complete"]


def test_finishing_is_not_a_task(prepare):
    code, _, err = prepare("--finish", "--task", "0/2")
    assert code == 2
    assert "--finish: merges the parts of all tasks; leave out --task" in err


def test_several_sizes_are_buckets(prepare):
    code, out, _ = prepare("--size", "12x8,8x12")
    assert code == 0
    assert "of 8x12 pixels  6" in out
    assert prepare("--size", "8x12,")[0] == 2
    assert "have the same shape" in prepare("--size", "8x8,4")[2]


def test_images_of_another_set_are_refused_or_dropped(prepare, photos, run, tmp_path):
    held_out = tmp_path / "held-out"
    held_out.mkdir()
    (held_out / "a.png").write_bytes((photos / "cat" / "01.png").read_bytes())
    run("prepare-data", held_out, "--out", tmp_path / "val", "--size", "8x12", "--workers", 1)
    code, _, err = prepare("--not-in", tmp_path / "val")
    assert code == 3
    assert "cat/01.png: the same file as image 0 of" in err
    code, out, _ = run(
        "prepare-data", photos, "--out", tmp_path / "other", "--size", "8x12", "--workers", 1, "--json",
        "--not-in", tmp_path / "val", "--drop-duplicates",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["images"] == 11
