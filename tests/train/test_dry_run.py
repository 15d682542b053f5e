"""Two steps of a recipe, what they cost, and nothing left behind."""

import pytest

from hdit_core.checkpoint.status import read_status
from hdit_core.errors import DataError, UsageError
from hdit_core.flops.count import count
from hdit_core.train.dry_run import dry_run
from hdit_core.train.step.train_step import Learner


def test_it_takes_two_steps_and_reckons_from_the_second(tmp_path, trained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clock, taken, update = iter(range(10**6)), [], Learner.train_step
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(Learner, "train_step", lambda learner, *step: taken.append(step[0]) or update(learner, *step))
    recipe = trained({"train.num_images": 8_640_000})
    found = dry_run(recipe, done=4_320_000)
    assert [step.number for step in taken] == [0, 1]
    assert (found.step_s, found.images_per_s, found.batch_size, found.ranks) == (3.0, 8 / 3, 8, 1)  # a tick a look
    assert found.waiting == pytest.approx(1 / 3)
    assert found.flops_per_s == pytest.approx(8 * 6 * count(recipe.model).macs / 3)
    assert (found.images_left, found.days) == (4_320_000, pytest.approx(4_320_000 * 3 / 8 / 86_400))
    assert found.parameters == count(recipe.model).parameters and found.utilisation is None
    assert found.peak_bytes > 100e6 and found.to_json()["loss"] > 0
    assert list(tmp_path.iterdir()) == []


def test_what_training_would_refuse_is_refused(tmp_path, trained):
    with pytest.raises(DataError, match="nowhere"):
        dry_run(trained({"data.path": str(tmp_path / "nowhere")}))
    with pytest.raises(UsageError, match="this machine has no such device"):
        dry_run(trained({}), device="cuda:9")
    assert read_status(tmp_path) == {} and list(tmp_path.iterdir()) == []
