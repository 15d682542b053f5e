"""TensorBoard and Weights & Biases get the values of the log; without their packages, there is a clear error."""

import sys
import types

import pytest
from PIL import Image

from hdit_core.checkpoint.log import read_log
from hdit_core.errors import StoppedEarly, UsageError
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.monitor.trackers import check_trackers, numbers_of, open_trackers
from hdit_core.train.run import train


class FakeWandb(types.ModuleType):
    """What is used of the API of wandb 0.31."""

    def __init__(self):
        super().__init__("wandb")
        self.begun, self.logged, self.finished, self.metrics = [], [], 0, []

    def init(self, **options):
        self.begun.append(options)
        return types.SimpleNamespace(
            log=self.logged.append, define_metric=lambda *a, **k: self.metrics.append((a, k)), finish=self._finish
        )

    def _finish(self):
        self.finished += 1

    def Image(self, path):
        return Image.open(path).size


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_gets_every_log_line_and_grid_in_one_run_however_often_it_is_resumed(tmp_path, trained, wandb):
    recipe = trained({"train.num_images": 64, "train.log_every_images": 16, "train.sample_every_images": 64})
    stop = Callbacks(lambda now: (tmp_path / "STOP").touch() if now.step == 4 else None, trackers=("wandb", "wandb"))
    with pytest.raises(StoppedEarly):
        train(recipe, tmp_path, callbacks=stop)
    train(recipe, tmp_path, callbacks=Callbacks(trackers=("wandb",)))
    assert wandb.finished == len(wandb.begun) == 2 and wandb.begun[0] == wandb.begun[1]
    begun = wandb.begun[0]
    assert (begun["dir"], begun["resume"], begun["name"]) == (str(tmp_path.resolve()), "allow", tmp_path.name)
    assert begun["config"] == recipe.model_dump(mode="json")
    assert wandb.metrics == [(("*",), {"step_metric": "num_images"})] * 2
    losses = [(line["num_images"], line["loss"]) for line in wandb.logged if "loss" in line]
    assert losses == [(line["num_images"], line["loss"]) for line in read_log(tmp_path)] and len(losses) == 4
    [sheet] = [line for line in wandb.logged if "samples" in line]
    assert sheet["num_images"] == 64 and sheet["samples"][0] >= 3 * 24
    assert "grad_norm/mapping" in wandb.logged[0] and "loss/sigma 0.1" in wandb.logged[0]


def test_tensorboard_hides_the_steps_that_a_resumed_run_repeats(tmp_path, trained):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = trained({"train.num_images": 64, "train.sample_every_images": 64})

    def die_after_step_6(now):
        if now.step == 6:  # a line is written that the run, resumed after step 4, writes again
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, callbacks=Callbacks(die_after_step_6, trackers=("tensorboard",)))
    train(recipe, tmp_path, callbacks=Callbacks(trackers=("tensorboard",)))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    expected = [(line["num_images"], pytest.approx(line["loss"])) for line in read_log(tmp_path)]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == expected
    [sheet] = events.Images("samples")
    assert sheet.step == 64 and sheet.width >= 3 * 24


def test_log_lines_become_scalars_with_flat_names():
    record = {
        "num_images": 64,
        "loss": 0.5,
        "grad_norm_by_part": {"level 0": 2.0},
        "loss_by_sigma": [{"sigma": [0.1, 0.31622776601683794], "images": 3, "loss": 0.25}],
        "best": "not a number",
    }
    assert numbers_of(record) == {"loss": 0.5, "grad_norm/level 0": 2.0, "loss/sigma 0.1": 0.25}


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_whose_package_is_missing_is_refused_before_the_run_starts(tmp_path, trained, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        UsageError, match=rf"--tracker {name}: the package {name} cannot be imported .*toolkit\[{name}\]'"
    ):
        train(trained({}), tmp_path / "run", callbacks=Callbacks(trackers=(name,)))
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused():
    with pytest.raises(UsageError, match=r"--tracker tensorbord: no such tracker; did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])


def test_without_a_tracker_nothing_happens(tmp_path, tiny_recipe):
    with open_trackers((), tmp_path, tiny_recipe, 0) as boards:
        boards.add_record({"num_images": 1, "loss": 1.0})
        boards.add_sheet(tmp_path / "nowhere.png", 1)
    assert list(tmp_path.iterdir()) == []
