"""A run that is stopped, killed or resumed is bit-identical to an uninterrupted one."""

import math
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from hdit_core.checkpoint.layout import checkpoint_folder, recipe_file, status_file, stop_file
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.log import read_log
from hdit_core.checkpoint.status import write_status
from hdit_core.data.stop_signals import STOP_SIGNALS
from hdit_core.diffusion.loss import denoising_loss
from hdit_core.errors import CheckpointError, DataError, NumericalError, StoppedEarly, UsageError
from hdit_core.recipe.read import read_recipe
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.preemption import Deadline, stop_signals
from hdit_core.train.run import train
from hdit_core.train.step import train_step as step_module


def final_tensors(run):
    checkpoint, complaints = newest_checkpoint(run)
    assert not complaints
    return {f"{part}/{key}": t for part in ("model", "ema", "optimizer") for key, t in checkpoint.tensors(part).items()}


def assert_same_bits(run, other):
    ours, theirs = final_tensors(run), final_tensors(other)
    assert ours.keys() == theirs.keys() and len(ours) > 100
    differing = [key for key in ours if not torch.equal(ours[key], theirs[key])]
    assert not differing, differing[:5]


def stop_at(run, steps, **how):
    """Return a watcher that asks the run to stop once it has reported a step of these."""

    def watch(progress):
        if progress.step in steps:
            steps.remove(progress.step)
            stop_file(run).touch() if how.get("by_file") else os.kill(os.getpid(), how.get("by_signal", signal.SIGTERM))

    return Callbacks(on_progress=watch)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, tiny_data):
    """Return a function: the folder of an unbroken run of a recipe, trained once."""
    runs = {}

    def run_of(recipe):
        key = recipe.model_dump_json()
        if key not in runs:
            runs[key] = tmp_path_factory.mktemp("unbroken") / "run"
            train(recipe, runs[key])
        return runs[key]

    return run_of


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("micro_batch_size", [8, 3])
def test_a_stopped_and_resumed_run_is_bit_identical_to_an_uninterrupted_one(
    tmp_path, trained, unbroken, workers, micro_batch_size
):
    recipe = trained({"train.micro_batch_size": micro_batch_size, "data.workers": workers})
    run, remaining = tmp_path / "run", [2, 8]
    watcher = stop_at(run, remaining)
    for _ in range(2):
        with pytest.raises(StoppedEarly, match=r"stopped by SIGTERM .* To resume: hdit train --resume"):
            train(recipe, run, callbacks=watcher)
        assert '"state": "preempted"' in status_file(run).read_text()
    train(recipe, run, callbacks=watcher)
    assert not remaining
    assert_same_bits(run, unbroken(recipe))
    assert [line["step"] for line in read_log(run)] == [2, 4, 6, 8, 10, 12]


def test_a_run_that_lost_its_newest_checkpoint_is_bit_identical_at_the_end(tmp_path, trained, unbroken, notes):
    recipe, run = trained({}), tmp_path / "run"
    with pytest.raises(StoppedEarly):
        train(recipe, run, callbacks=stop_at(run, [8]))
    weights = checkpoint_folder(run, 8) / "model.safetensors"  # the run comes by this step again, and saves it again
    content = bytearray(weights.read_bytes())
    content[-100] ^= 4
    weights.write_bytes(content)
    train(recipe, run)
    assert any("skipped: " in note and "step-000000008/model.safetensors" in note for note in notes)
    assert_same_bits(run, unbroken(recipe))


def test_every_signal_of_schedulers_is_handled_and_its_handler_restored(tmp_path):
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        with stop_signals(tmp_path / "STOP", Deadline(None, lambda: 0.0)) as stop:
            assert not stop.raised()
            os.kill(os.getpid(), number)
            assert stop.raised() and stop.reason == number.name
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


def test_a_run_under_nohup_is_not_stopped_by_a_closed_terminal(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts a program
    try:
        with stop_signals(tmp_path / "STOP", Deadline(None, lambda: 0.0)) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            assert not stop.raised()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_resumed_run_has_the_status_running(tmp_path, trained):
    run, recipe, states = tmp_path / "run", trained({"train.num_images": 32}), []
    with pytest.raises(StoppedEarly):
        train(recipe, run, callbacks=stop_at(run, [2]))
    train(recipe, run, callbacks=Callbacks(on_progress=lambda now: states.append(status_file(run).read_text())))
    assert all('"state": "running"' in state for state in states) and states
    assert '"state": "done"' in status_file(run).read_text()


def test_the_stop_file_stops_the_run_and_is_removed(tmp_path, trained):
    run = tmp_path / "run"
    with pytest.raises(StoppedEarly, match="stopped by the file"):
        train(trained({}), run, callbacks=stop_at(run, [4], by_file=True))
    assert not stop_file(run).exists() and newest_checkpoint(run)[0].state.step == 4


def test_a_request_to_stop_in_the_last_step_is_cleared_and_the_run_is_done(tmp_path, trained):
    run = tmp_path / "run"
    assert train(trained({"train.num_images": 16}), run, callbacks=stop_at(run, [2], by_file=True)).step == 2
    assert not stop_file(run).exists() and '"state": "done"' in status_file(run).read_text()


def test_accumulating_gradients_gives_the_weights_of_whole_batches(trained, unbroken):
    # without dropout, which differs between micro-batches
    levels = [level | {"dropout": 0.0} for level in trained({}).model_dump(mode="json")["model"]["levels"]]
    whole = final_tensors(unbroken(trained({"model.levels": levels})))
    pieces = final_tensors(unbroken(trained({"model.levels": levels, "train.micro_batch_size": 3})))
    for key, tensor in whole.items():
        if key.startswith("model/"):
            torch.testing.assert_close(pieces[key], tensor, rtol=1e-3, atol=2e-4)


def test_a_finished_run_is_not_changed(tmp_path, trained):
    recipe, run = trained({"train.num_images": 16}), tmp_path / "run"
    before = train(recipe, run)
    assert train(recipe, run).step == before.step == 2


def test_a_run_beyond_a_shortened_end_reports_that_nothing_is_left(tmp_path, trained, notes):
    train(trained({"train.num_images": 20}), tmp_path, device="cpu")  # three steps of 8
    for images in (20, 16):
        recipe = trained({"train.num_images": images})
        assert train(recipe, tmp_path, device="cpu").num_images == 24
    (told,) = (note for note in notes if "already" in note)
    assert told.endswith("24 images already, more than train.num_images = 16; nothing is left to do")


def test_a_run_whose_checkpoints_are_lost_does_not_start_over(tmp_path, trained):
    train(trained({"train.num_images": 16}), tmp_path, device="cpu")
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"was at step 2, but its checkpoints are gone; restore one .* --out$"):
        train(trained({"train.num_images": 24}), tmp_path, device="cpu")
    (tmp_path / "elsewhere").rename(tmp_path / "checkpoints")
    assert train(trained({"train.num_images": 24}), tmp_path, device="cpu").step == 3


def test_a_run_killed_before_its_first_checkpoint_reports_that_it_starts_over(tmp_path, trained, notes):
    train(trained({"train.num_images": 16}), tmp_path, device="cpu")
    shutil.rmtree(tmp_path / "checkpoints")
    write_status(tmp_path, "running", 0, 0)  # as the kill leaves it: nothing was saved
    assert train(trained({"train.num_images": 16}), tmp_path, device="cpu").step == 2
    assert f"{tmp_path}: has no checkpoint yet; starts again" in notes


def test_a_finished_run_can_be_extended(tmp_path, trained, unbroken):
    run = tmp_path / "run"
    train(trained({"train.num_images": 40}), run)
    train(trained({}), run)
    assert_same_bits(run, unbroken(trained({})))


def test_a_folder_of_another_run_is_refused_with_the_differences(tmp_path, trained):
    run = tmp_path / "run"
    train(trained({"train.num_images": 8}), run)
    with pytest.raises(UsageError, match=r"different settings: train.lr 0.0005 \(run\) vs 0.01 \(command\)"):
        train(trained({"train.num_images": 8, "train.lr": 0.01}), run)


def test_a_folder_of_other_files_is_refused(tmp_path, trained):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="exists and is not a run of hdit"):
        train(trained({}), tmp_path)


def test_a_run_does_not_resume_with_other_data(tmp_path, trained, tiny_data, other_tiny_data):
    run = tmp_path / "run"
    train(trained({"train.num_images": 8}), run)
    with pytest.raises(CheckpointError, match="was trained on the data set"):
        train(trained({"data.path": str(other_tiny_data), "train.num_images": 16}), run)
    assert read_recipe(str(recipe_file(run))) == trained({"train.num_images": 8})  # the refused run left no files


def test_data_that_does_not_fit_the_network_is_refused(tmp_path, trained):
    with pytest.raises(DataError, match=r"has images of 16x24x3 .* network takes 24x16x3"):
        train(trained({"model.image_size": [24, 16]}), tmp_path / "a")
    with pytest.raises(DataError, match=r"again with --channels 1, or change model.channels"):
        train(trained({"model.channels": 1}), tmp_path / "a")
    with pytest.raises(DataError, match=r"has 3 classes, model.num_classes is 5"):
        train(trained({"model.num_classes": 5}), tmp_path / "b")


def test_a_loss_that_is_not_finite_never_reaches_the_weights(tmp_path, trained, monkeypatch):
    run = tmp_path / "run"
    train(trained({"train.num_images": 32}), run)
    before = final_tensors(run)
    monkeypatch.setattr(step_module, "denoising_loss", lambda *args, **cond: denoising_loss(*args, **cond) * math.nan)
    with pytest.raises(NumericalError, match=r"step 4: the loss is nan .* on images 32 to 39"):
        train(trained({}), run)
    assert all(torch.equal(final_tensors(run)[key], tensor) for key, tensor in before.items())
    assert '"state": "failed"' in status_file(run).read_text() and "the loss is nan" in status_file(run).read_text()


def test_samples_are_written_during_training(tmp_path, trained):
    run = tmp_path / "run"
    train(trained({"train.sample_every_images": 48}), run)
    assert [path.name for path in sorted((run / "grids").iterdir())] == ["000000048.png", "000000096.png"]
    assert Path(run / "recipe.toml").read_text().startswith("[model]")
