"""The page shows a run while it trains."""

import io
import json
import shutil

import pytest
from PIL import Image

from hdit_core.checkpoint.status import write_status
from hdit_core.play.run_view import grid_of, state_of, status_line, view_run


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def test_a_run_has_a_status_curves_and_grids(run):
    view = view_run(run)
    assert view.text.startswith("done, 64 of 64 images, loss ")
    assert view.grids == (32, 64)
    assert len(view.curves) >= 4 and all(Image.open(io.BytesIO(curve)).width > 800 for curve in view.curves)
    assert Image.open(io.BytesIO(grid_of(run, 64))).width > 24
    assert grid_of(run, 65) is None


def test_the_remaining_time_is_that_of_a_running_run(copied):
    write_status(copied, "running", 4, 32)
    (copied / "log.jsonl").write_text(json.dumps({"step": 4, "num_images": 32, "loss": 0.5, "images_per_s": 8}) + "\n")
    assert status_line(copied) == "running, 32 of 64 images, loss 0.5, 8 images/s, 0:04 left"


def test_a_failure_has_its_reason(copied):
    write_status(copied, "failed", 4, 32, reason="the loss is NaN")
    assert status_line(copied).startswith("failed, 64 of 64 images, loss ")
    assert status_line(copied).endswith("(the loss is NaN)")


def test_a_change_of_the_run_is_noticed(copied):
    before = state_of(copied)
    assert state_of(copied) == before
    with (copied / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 9, "num_images": 72, "loss": 0.5}) + "\n")
    assert state_of(copied) != before


def test_a_new_run_and_damaged_files_are_no_error(copied):
    for name in ("log.jsonl", "status.json", "recipe.toml"):
        (copied / name).write_bytes(b"\xff{")
    shutil.rmtree(copied / "grids")
    view = view_run(copied)
    assert view.text == "unknown, 0 images" and view.curves == () == view.grids
