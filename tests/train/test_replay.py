"""A replayed step is bit-identical to that of the run, and leaves the run unchanged."""

import math
import shutil

import numpy as np
import pytest
from PIL import Image

from hdit_core.checkpoint.layout import checkpoint_folder, incident_file
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.state import SkippedImages
from hdit_core.errors import NumericalError, UsageError
from hdit_core.recipe.read import check_recipe
from hdit_core.train.monitor import spikes as spikes_module
from hdit_core.train.replay import replay
from hdit_core.train.run import train
from hdit_core.train.step.train_step import Learner
from tests.conftest import TINY
from tests.train.poison import Poison, poisoned


@pytest.fixture(scope="module")
def told(tmp_path_factory, tiny_data):
    """A finished run, its recipe, and what each of its steps told."""
    recipe = check_recipe(TINY | {"data": TINY["data"] | {"path": str(tiny_data)}}, "tiny")
    results, update, run = {}, Learner.train_step, tmp_path_factory.mktemp("told") / "run"
    with pytest.MonkeyPatch.context() as patch:

        def record(learner, step, batches):
            results[step.number] = update(learner, step, batches)
            return results[step.number]

        patch.setattr(Learner, "train_step", record)
        train(recipe, run)
    return run, recipe, results


def files_of(run):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(run.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("number", "begins_at"), [(0, 0), (3, 0), (4, 4), (7, 4), (11, 8)])
def test_a_replayed_step_is_bit_identical_from_the_checkpoint_before_it(told, number, begins_at):
    run, recipe, results = told
    before = files_of(run)
    again = replay(recipe, run, number)
    assert (again.from_step, again.finite) == (begins_at, True)
    expected = results[number]
    assert (again.result.losses, again.result.sigmas) == (expected.losses, expected.sigmas)
    assert again.result.grad_norm == expected.grad_norm and again.result.grad_norms == expected.grad_norms
    assert [image.number for image in again.images] == list(range(8 * number, 8 * number + 8))
    assert all(image.grad_norm > 0 for image in again.images)
    assert files_of(run) == before


def test_a_damaged_checkpoint_is_skipped(told, tmp_path, notes):
    run, recipe, results = told
    shutil.copytree(run, tmp_path / "run")
    (checkpoint_folder(tmp_path / "run", 4) / "model.safetensors").write_bytes(b"damaged")
    again = replay(recipe, tmp_path / "run", 5)
    assert again.from_step == 0 and again.result.losses == results[5].losses
    assert any("skipped: " in note and "step-000000004" in note for note in notes)
    assert any("from the beginning" in note for note in notes)


def test_the_replay_writes_the_images_as_the_network_received_them(told, tmp_path):
    run, recipe, _ = told
    replay(recipe, run, 2, save_images=tmp_path / "step.png")
    with Image.open(tmp_path / "step.png") as picture:
        assert picture.width >= 3 * 24 and picture.height >= 3 * 16
        assert np.asarray(picture).std() > 10


def test_a_step_that_was_not_finite_is_reproduced_with_the_responsible_image(tmp_path, trained, monkeypatch):
    recipe = trained({})
    poisoned(monkeypatch, Poison(-1, math.inf, number=45))
    with pytest.raises(NumericalError):
        train(recipe, tmp_path)
    before = files_of(tmp_path)
    again = replay(recipe, tmp_path, 5)
    assert (again.from_step, again.finite) == (4, False)
    assert [image.number for image in again.images if not image.finite] == [45]
    document = again.to_json()
    assert document["loss"] == "inf" and document["images"][5]["finite"] is False
    assert files_of(tmp_path) == before and incident_file(tmp_path, 5) in before
    with pytest.raises(NumericalError, match="step 5: the loss is inf"):
        replay(recipe, tmp_path, 6)  # there is no way past it


def test_replayed_steps_of_a_run_that_skipped_images_take_the_later_ones(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(spikes_module, "LEAST_STEPS", 3)
    recipe = trained({"train.rollback": 1})
    with monkeypatch.context() as patch:
        poisoned(patch, Poison(-1, math.nan, number=41))
        train(recipe, tmp_path)
    again = replay(recipe, tmp_path, 9)
    assert [image.number for image in again.images] == list(range(80, 88))
    assert newest_checkpoint(tmp_path)[0].state.skips == (SkippedImages(after_images=40, images=8),)


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (12, {}, "--repro 12: the last step of the run is 11; steps are counted from 0"),
        (3, {"train.lr": 0.1}, "different settings: train.lr"),
    ],
)
def test_a_step_outside_the_run_is_refused(told, trained, number, changes, message):
    with pytest.raises(UsageError, match=message):
        replay(trained(changes), told[0], number)


def test_a_folder_without_a_run_is_refused(tmp_path, trained):
    with pytest.raises(UsageError, match="is not a run of hdit; give the run of the step with --out"):
        replay(trained({}), tmp_path, 0)
