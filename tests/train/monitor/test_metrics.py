"""The sums between two lines of the log: means, losses by noise level, and the same line after a stop."""

import json

import numpy as np
import pytest

from hdit_core.checkpoint.log import read_log
from hdit_core.checkpoint.state import SIGMA_BINS, LogWindow, State, StepHistory
from hdit_core.errors import StoppedEarly
from hdit_core.train import trainer as trainer_module
from hdit_core.train.monitor.metrics import SIGMA_EDGES, log_fields, loss_by_sigma, with_step
from hdit_core.train.run import train
from hdit_core.train.step.result import StepResult

TIMES = ("elapsed_s", "images_per_s", "flops_per_s", "waiting", "peak_bytes")


def result(losses, sigmas, **more):
    return StepResult(float(np.mean(losses)), 2.0, tuple(losses), tuple(sigmas), **more)


def test_losses_are_binned_by_half_decades_of_noise_level_with_outliers_in_the_end_bins():
    assert len(SIGMA_EDGES) == SIGMA_BINS + 1
    assert np.diff(np.log(SIGMA_EDGES)) == pytest.approx([np.log(10) / 2] * SIGMA_BINS)
    numbers = np.random.default_rng(0)
    interval, losses, sigmas = LogWindow(), numbers.random((3, 50)), np.exp(numbers.normal(0, 5, (3, 50)))
    for each, noise in zip(losses, sigmas, strict=True):
        interval = with_step(interval, result(each, noise), flops=10.0, elapsed_s=2.0, waited_s=0.5)
    places = np.clip(np.floor(2 * (np.log10(sigmas) + 3)), 0, SIGMA_BINS - 1)
    rows = loss_by_sigma(interval)
    assert [row["images"] for row in rows] == [int((places == p).sum()) for p in sorted(set(places.flat))]
    assert [row["loss"] for row in rows] == pytest.approx(
        [losses[places == p].mean() for p in sorted(set(places.flat))]
    )
    assert sum(row["images"] for row in rows) == 150
    assert sum(row["images"] * row["loss"] for row in rows) == pytest.approx(losses.sum())


def test_a_log_line_has_means_of_the_steps_and_speeds_of_the_whole_interval():
    interval = LogWindow()
    for norm, waited_s in ((1.0, 0.0), (3.0, 2.0)):
        step = result([1.0, 2.0, 6.0], [0.1, 1.0, 10.0], grad_norms={"mapping": norm, "level 0": 1.0})
        interval = with_step(interval, step, flops=1e9, elapsed_s=4.0, waited_s=waited_s, spikes=1)
    fields = log_fields(interval)
    assert (fields["loss"], fields["grad_norm"], fields["images_per_s"]) == (3.0, 2.0, 6 / 8)
    assert (fields["flops_per_s"], fields["waiting"], fields["spikes"]) == (0.25e9, 0.25, 2)
    assert fields["grad_norm_by_part"] == {"mapping": 2.0, "level 0": 1.0}


def test_the_training_state_survives_a_checkpoint_and_older_ones_lack_the_history():
    interval = with_step(LogWindow(), result([0.1], [0.3]), flops=1 / 3, elapsed_s=0.1, waited_s=1e-9)
    memory = StepHistory(interval=interval, losses=(0.1, 1e-7), grad_norms=(1 / 3,), damaged={7: "cut short"})
    state = State(step=3, num_images=24, data_hash="x", memory=memory)
    assert State.model_validate(json.loads(state.model_dump_json())) == state
    assert State.model_validate({"step": 3, "num_images": 24, "data_hash": "x"}).memory == StepHistory()


def test_the_log_of_a_stopped_and_resumed_run_equals_that_of_an_uninterrupted_one_except_for_times(
    tmp_path, trained, monkeypatch
):
    recipe = trained({"train.log_every_images": 40, "train.checkpoint_every_images": 1000})
    train(recipe, tmp_path / "whole")
    advanced, stops = trainer_module.next_state, [2, 7, 8]

    def stop_within_an_interval(state, step, *arguments, **more):
        if step.number in stops:
            stops.remove(step.number)
            (tmp_path / "run" / "STOP").touch()
        return advanced(state, step, *arguments, **more)

    monkeypatch.setattr(trainer_module, "next_state", stop_within_an_interval)
    for _ in range(3):
        with pytest.raises(StoppedEarly):
            train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run")
    whole, broken = (
        [{key: value for key, value in line.items() if key not in TIMES} for line in read_log(tmp_path / name)]
        for name in ("whole", "run")
    )
    assert broken == whole and len(whole) == 3 and len(whole[0]) >= 6
