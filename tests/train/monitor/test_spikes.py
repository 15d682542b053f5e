"""Loss spikes are reported; if the recipe allows it, the run rolls back and skips their images, exactly."""

import gc
import json
import math
import weakref

import numpy as np
import pytest
import torch

from hdit_core.checkpoint.layout import incident_file
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.log import read_log
from hdit_core.checkpoint.state import SkippedImages, StepHistory
from hdit_core.data.loader.bucket_order import BatchSizePhase
from hdit_core.errors import NumericalError, StoppedEarly
from hdit_core.train import run as run_module
from hdit_core.train.monitor import spikes as spikes_module
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.monitor.spikes import WINDOW, find_spikes, is_spike, with_step_history
from hdit_core.train.run import train
from hdit_core.train.step.batch_plan import PlannedStep, batch_size_phases, steps
from hdit_core.train.step.result import StepResult
from hdit_core.train.step.train_step import Learner
from tests.train.poison import Poison, poisoned


def test_a_spike_is_a_loss_far_above_the_scatter_and_twice_the_usual():
    usual = np.exp(np.random.default_rng(0).normal(0, 0.1, WINDOW)).tolist()
    assert not any(is_spike(value, usual) for value in (0.0, 1e-9, 1.0, 1.9, max(usual)))
    assert is_spike(2.5, usual) and is_spike(math.inf, usual)
    assert not is_spike(1.9, [1.0] * WINDOW) and is_spike(2.1, [1.0] * WINDOW)  # no scatter at all
    scattered = np.exp(np.random.default_rng(0).normal(0, 1.0, WINDOW)).tolist()
    assert not is_spike(100.0, scattered) and is_spike(math.exp(9), scattered)
    assert not is_spike(1e9, usual[:31]) and is_spike(1e9, usual[:32])


def test_a_few_spikes_do_not_hide_others_and_a_new_level_becomes_usual():
    memory = StepHistory(losses=(1.0,) * 60 + (500.0,) * 4, grad_norms=(1.0,) * 64)
    found = find_spikes(memory, StepResult(50.0, 1.5))
    assert [(spike.what, spike.value, spike.usual) for spike in found] == [("loss", 50.0, 1.0)]
    told = 0
    for _ in range(WINDOW):
        told += bool(find_spikes(memory, StepResult(50.0, 1.0)))
        memory = with_step_history(memory, StepResult(50.0, 1.0))
    assert 50 < told < 80 and len(memory.losses) == WINDOW


def test_steps_after_a_skip_take_later_images_and_batch_size_phases_start_later(trained):
    growth = [{"after_images": 24, "batch_size": 12}]
    train_recipe = trained({"train.num_images": 60, "train.batch_growth": growth}).train
    skips = (SkippedImages(after_images=8, images=8), SkippedImages(after_images=24, images=12))
    taken = [range(step.first, step.first + step.batch_size) for step in steps(train_recipe, 0, 0, skips)]
    assert taken == [range(8), range(16, 24), range(24, 32), range(44, 56), range(56, 68), range(68, 80)]
    assert next(steps(train_recipe, 1, 8, skips)) == PlannedStep(1, 8, 8, 8)
    # the images passed over at 24 were of the larger steps, so that their part begins before them
    assert batch_size_phases(train_recipe, skips) == [BatchSizePhase(0, 8), BatchSizePhase(32, 12)]


@pytest.fixture
def soon(monkeypatch):
    """Let spikes be seen from the third step on."""
    monkeypatch.setattr(spikes_module, "LEAST_STEPS", 3)


def images_of(run):
    return {
        key: tensor
        for part in ("model", "ema", "optimizer")
        for key, tensor in newest_checkpoint(run)[0].tensors(part).items()
    }


def test_a_spike_is_reported_and_logged_and_the_run_continues(tmp_path, trained, monkeypatch, soon, notes):
    poisoned(monkeypatch, Poison(6, 1e4, image=3))
    train(trained({"train.log_every_images": 32}), tmp_path)
    assert any("step 6: loss spike: the loss is" in note and "incidents/step-000000006.json" in note for note in notes)
    assert [line.get("spikes") for line in read_log(tmp_path)] == [None, 1, None]
    record = json.loads(incident_file(tmp_path, 6).read_text())
    assert record["kind"] == "spike" and [spike["what"] for spike in record["spikes"]] == ["loss", "gradient norm"]
    assert max(range(8), key=lambda place: record["images"][place]["loss"]) == 3 and record["ranks"] == []


def test_the_weights_before_a_rollback_are_freed(tmp_path, trained, monkeypatch, soon):
    poisoned(monkeypatch, Poison(-1, math.nan, number=51))
    learners, build, alive = [], run_module.build_learner, []

    def counted(*args, **keys):
        alive.append(sum(learner() is not None for learner in learners))
        learner = build(*args, **keys)
        learners.append(weakref.ref(learner))
        return learner

    monkeypatch.setattr(run_module, "build_learner", counted)
    gc.disable()
    try:
        train(trained({"train.rollback": 1}), tmp_path)
    finally:
        gc.enable()
    assert alive == [0, 0]


@pytest.mark.parametrize(("value", "stop"), [(math.nan, False), (1e4, True)])
def test_a_run_that_rolls_back_equals_one_that_never_saw_the_skipped_images(
    tmp_path, trained, monkeypatch, soon, value, stop, notes
):
    recipe = trained({"train.rollback": 1, "train.log_every_images": 8})
    number, seen = 51, []  # an image of step 6; the checkpoint before it is of step 4
    met = poisoned(monkeypatch, Poison(-1, value, number=number))
    measure = Learner.forward_backward
    monkeypatch.setattr(
        Learner, "forward_backward", lambda learner, step, batches: seen.append(step) or measure(learner, step, batches)
    )
    if stop:  # between the roll-back and the next checkpoint: the run meets the images again, and goes back again

        def kill(now):
            if seen.count(PlannedStep(4, 32, 8, 0)) == 2 and now.step == 6:
                seen.clear()
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "run", callbacks=Callbacks(on_progress=kill))
    notes.clear()
    train(recipe, tmp_path / "run")
    assert len([note for note in notes if "back to the last checkpoint" in note]) == 1 and met == [6] * (1 + stop)
    assert seen[-6:] == [PlannedStep(n, 8 * n, 8, 8) for n in range(6, 12)]
    state = newest_checkpoint(tmp_path / "run")[0].state
    assert state.skips == (SkippedImages(after_images=48, images=8),) and (state.step, state.num_images) == (12, 96)
    assert [line["step"] for line in read_log(tmp_path / "run")] == list(range(1, 13))

    never = steps

    def steps_without(train_recipe, step, num_images, skips=()):
        return never(train_recipe, step, num_images, (SkippedImages(after_images=48, images=8),))

    monkeypatch.setattr("hdit_core.train.trainer.steps", steps_without)
    train(recipe, tmp_path / "never")
    ours, theirs = images_of(tmp_path / "run"), images_of(tmp_path / "never")
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items()) and len(ours) > 100
    losses = [[line["loss"] for line in read_log(tmp_path / name)] for name in ("run", "never")]
    assert losses[0] == losses[1]


def test_when_the_rollbacks_are_used_up_a_spike_is_only_reported_and_a_nonfinite_loss_ends_the_run(
    tmp_path, trained, monkeypatch, soon
):
    recipe = trained({"train.rollback": 1})
    poisoned(monkeypatch, Poison(6, math.nan, image=3))  # whichever images come: the step is bad
    with pytest.raises(NumericalError, match=r"step 6: .* on images 56 to 63 of the run"):
        train(recipe, tmp_path)
    assert [path.name for path in sorted((tmp_path / "incidents").iterdir())] == [
        "step-000000006-1.json",
        "step-000000006.json",
    ]


def test_a_run_stopped_after_a_rollback_resumes_with_its_skipped_images(tmp_path, trained, monkeypatch, soon):
    recipe = trained({"train.rollback": 2})
    poisoned(monkeypatch, Poison(-1, math.nan, number=17))
    with pytest.raises(StoppedEarly):
        train(recipe, tmp_path, callbacks=Callbacks(on_progress=lambda now: (tmp_path / "STOP").touch()))
    assert newest_checkpoint(tmp_path)[0].state.skips == ()
    with pytest.raises(StoppedEarly):
        train(recipe, tmp_path, callbacks=Callbacks(on_progress=lambda now: (tmp_path / "STOP").touch()))
    skips = newest_checkpoint(tmp_path)[0].state.skips
    assert skips == (SkippedImages(after_images=16, images=8),)
    train(recipe, tmp_path)
    assert newest_checkpoint(tmp_path)[0].state.skips == skips
