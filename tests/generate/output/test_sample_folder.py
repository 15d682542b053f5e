"""A folder of samples is resumed, checked, never mixed, and records its settings."""

import errno
import json
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_core.diffusion.precondition import ModelSource
from hdit_core.errors import UsageError
from hdit_core.generate import index_ranges
from hdit_core.generate.output import sample_folder as module
from hdit_core.generate.output.sample_folder import SampleFolder
from hdit_core.generate.pipeline import Samples

ORIGIN = {"weights_sha256": "ab", "seed": 3, "settings": {"steps": 4, "eta": 1.0}}


def batch(numbers, height=8, width=12, channels=3):
    images = torch.stack([torch.full((channels, height, width), number / 16 - 1) for number in numbers])
    return Samples(list(numbers), [number % 3 for number in numbers], images)


def begun(path, origin=ORIGIN):
    samples = SampleFolder(path, origin, (8, 12, 3))
    samples.begin()
    return samples


def test_each_image_is_a_png_named_by_its_number_beside_a_grid_and_a_record(tmp_path):
    samples = begun(tmp_path / "out")
    samples.write(batch([4, 5]))
    samples.write(batch([9]))
    record = samples.finish([4, 5, 9], lambda number: number % 3)

    names = ["00000004.png", "00000005.png", "00000009.png", "samples.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out-grid.png"]
    assert record == {"status": "complete", "num_images": 3, "images": "4-5,9", "origin": ORIGIN}
    assert json.loads((tmp_path / "out" / "samples.json").read_text()) == record | {"class_ids": [1, 2, 0]}
    pixels = np.asarray(Image.open(tmp_path / "out" / "00000009.png"))
    assert pixels.shape == (8, 12, 3) and (pixels == round(127.5 * 9 / 16)).all()


def test_an_unfinished_folder_records_its_state_and_settings(tmp_path):
    begun(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "samples.json").read_text()) == {"status": "unfinished", "origin": ORIGIN}


def test_missing_truncated_and_foreign_images_are_regenerated_and_the_others_kept(tmp_path):
    samples = begun(tmp_path)
    samples.write(batch(range(6)))
    whole = samples.path(1).read_bytes()
    samples.path(1).write_bytes(whole[: len(whole) // 2])
    samples.path(2).unlink()
    Image.new("RGB", (8, 8)).save(samples.path(3))
    samples.path(4).write_bytes(b"GIF89a")
    assert begun(tmp_path).missing(range(7)) == [1, 2, 3, 4, 6]


@pytest.mark.parametrize(("number", "found"), [(errno.EIO, True), (errno.EACCES, None)])
def test_an_image_whose_state_is_unknown_is_not_taken_for_a_missing_one(tmp_path, monkeypatch, number, found):
    samples, lstat = begun(tmp_path), Path.lstat
    samples.write(batch([0]))
    problems = [OSError(number, os.strerror(number))]

    def failing_once(path):
        if problems:
            raise problems.pop()
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", failing_once)
    with nullcontext() if found else pytest.raises(PermissionError):
        assert samples.holds(0) is found


def test_a_second_job_of_the_same_settings_adds_its_images_to_the_record(tmp_path):
    first = begun(tmp_path)
    first.write(batch([0, 1]))
    first.finish([0, 1], lambda number: None)
    second = begun(tmp_path)
    second.write(batch([7]))
    assert second.finish([7], lambda number: None)["images"] == "0-1,7"
    assert json.loads((tmp_path / "samples.json").read_text())["class_ids"] is None


def test_deleted_images_are_removed_from_the_record(tmp_path):
    first = begun(tmp_path)
    first.write(batch([0, 1]))
    first.finish([0, 1], lambda number: None)
    first.path(0).unlink()
    assert begun(tmp_path).finish([], lambda number: None)["images"] == "1"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 4}, "seed 3 -> 4"),
        ({"settings": {"steps": 9, "eta": 1.0}}, "steps 4 -> 9"),
        ({"weights_sha256": "cd" * 32}, "weights_sha256 'ab' -> 'cdcdcdcdcdcd'"),
    ],
)
def test_samples_of_other_settings_are_refused_and_nothing_is_changed(tmp_path, changed, message):
    begun(tmp_path).write(batch([0]))
    before = (tmp_path / "samples.json").read_bytes()
    with pytest.raises(UsageError, match=rf"images with other settings \(old -> new\): {message}\. Choose another"):
        begun(tmp_path, ORIGIN | changed)
    assert (tmp_path / "samples.json").read_bytes() == before


def test_other_weights_are_identified_by_run_step_and_kind(tmp_path):
    sources = ModelSource("runs/a", 750, 24_000, "ema"), ModelSource("runs/a", 750, 24_000, "model")
    folders = [
        SampleFolder(tmp_path / "out", ORIGIN | {"weights_sha256": name}, (8, 12, 3), source=source)
        for name, source in zip("xy", sources, strict=True)
    ]
    folders[0].begin()
    folders[0].write(batch([0]))
    record = folders[0].finish([0], lambda number: None)
    assert record["model"] == {"run": "runs/a", "step": 750, "images_seen": 24_000, "weights": "ema"}
    with pytest.raises(UsageError, match=r"other settings \(old -> new\): weights 'ema' -> 'model'\. Choose another"):
        folders[1].begin()


@pytest.mark.parametrize("problem", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_a_grid_that_cannot_be_written_is_skipped_with_a_warning(tmp_path, notes, monkeypatch, problem):
    samples = begun(tmp_path / "out")
    samples.write(batch([0]))
    (tmp_path / "out" / "grid.png").write_bytes(b"of an earlier version")
    write = module.write_atomic

    def refuse(path, content):
        if path.parent == tmp_path:
            raise problem
        write(path, content)

    monkeypatch.setattr(module, "write_atomic", refuse)
    samples.finish([0], lambda number: None)
    assert notes[-1] == f"{tmp_path}/out-grid.png: no image grid: {problem.strerror}"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000000.png", "samples.json"]


def test_a_folder_without_images_takes_other_settings(tmp_path):
    begun(tmp_path).leave()
    other = ORIGIN | {"seed": 4}
    begun(tmp_path, other)
    assert json.loads((tmp_path / "samples.json").read_text())["origin"] == other


def test_at_most_three_differences_are_listed_with_the_number_of_others(tmp_path):
    begun(tmp_path).write(batch([0]))
    other = {"weights_sha256": "x", "seed": 0, "settings": {"steps": 1, "eta": 0.0, "rho": 7}}
    with pytest.raises(UsageError, match="; and 2 more"):
        begun(tmp_path, other)


def test_a_folder_of_other_files_and_a_file_are_refused(tmp_path):
    (tmp_path / "old.png").touch()
    for place in (tmp_path, tmp_path / "old.png"):
        with pytest.raises(UsageError, match="exists and is not a folder of samples"):
            begun(place)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"origin": []}', '{"origin": {}, "images": "x"}', '{"origin": {}, "images": 3}']
)
def test_a_record_that_cannot_be_read_is_refused(tmp_path, content):
    (tmp_path / "samples.json").write_text(content)
    (tmp_path / "00000000.png").touch()
    with pytest.raises(UsageError, match=r"samples.json: cannot be read .*; choose another folder"):
        begun(tmp_path)


def test_temporary_files_of_killed_writers_are_removed_at_the_end(tmp_path):
    samples = begun(tmp_path)
    (tmp_path / ".tmp-00000003.png-77").write_bytes(b"half")
    samples.write(batch([0]))
    samples.finish([0], lambda number: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000000.png", "samples.json"]


def test_the_grid_has_the_requested_shape_and_a_limited_size(tmp_path, monkeypatch):
    samples = begun(tmp_path)
    samples.write(batch(range(8)))
    samples.finish(range(8), lambda number: None, (2, 3))
    assert Image.open(tmp_path.with_name(f"{tmp_path.name}-grid.png")).size == (3 * 14 + 2, 2 * 10 + 2)
    monkeypatch.setattr(module, "MOST_GRID_PIXELS", 3 * 8 * 12)
    begun(tmp_path).finish(range(8), lambda number: None)
    assert Image.open(tmp_path.with_name(f"{tmp_path.name}-grid.png")).size == (2 * 14 + 2, 2 * 10 + 2)


def test_a_folder_may_hold_the_images_of_several_commands_of_the_most_images(tmp_path, monkeypatch):
    monkeypatch.setattr(index_ranges, "MOST_INDICES", 3)
    for numbers in ([0, 1, 2], [3, 4, 5], [6, 7, 8]):
        samples = begun(tmp_path)
        samples.write(batch(numbers))
        record = samples.finish(numbers, lambda number: None)
    assert record["images"] == "0-8"


def test_a_requested_grid_that_is_cut_is_reported(tmp_path, monkeypatch, notes):
    monkeypatch.setattr(module, "MOST_GRID_PIXELS", 3 * 8 * 12)
    samples = begun(tmp_path)
    samples.write(batch(range(8)))
    samples.finish(range(8), lambda number: None, (2, 3))
    assert notes[-1].startswith("--grid: 3 of 6 images are shown")
