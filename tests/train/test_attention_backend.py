"""A run logs its attention backend, refuses one that cannot run, and may be resumed with another."""

import pytest
import torch

from hdit_core.errors import StoppedEarly, UsageError
from hdit_core.model.native.rowwise import kernels_note
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.run import train


def test_a_run_logs_its_backend_and_may_be_resumed_with_another(tmp_path, trained, notes):

    def stop_at_once(progress):
        (tmp_path / "run" / "STOP").touch()

    with pytest.raises(StoppedEarly):
        train(trained({}), tmp_path / "run", device="cpu", callbacks=Callbacks(stop_at_once))
    assert [note.startswith("neighborhood attention: ") for note in notes].count(True) == 1
    assert kernels_note(torch.device("cpu"), torch.float32) in notes

    notes.clear()
    tiled = trained({})
    tiled = tiled.model_copy(update={"model": tiled.model.model_copy(update={"attention_backend": "tiled"})})
    state = train(tiled, tmp_path / "run", device="cpu")
    assert state.num_images == tiled.train.num_images
    assert "neighborhood attention: tiled (CPU): set by model.attention_backend" in notes


def test_a_run_whose_requested_backend_cannot_run_is_refused_before_its_folder_is_created(tmp_path, trained):
    recipe = trained({})
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"attention_backend": "natten"})})
    with pytest.raises(UsageError, match=r"^model\.attention_backend = 'natten' cannot run here: .*available: auto"):
        train(recipe, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_refused_run_is_answered_by_the_reason_alone(tmp_path, trained, notes):
    train(trained({}), tmp_path / "run", device="cpu")
    notes.clear()
    other = trained({})
    other = other.model_copy(update={"train": other.train.model_copy(update={"lr": 0.5})})
    with pytest.raises(UsageError, match=r"is a run with different settings: train\.lr"):
        train(other, tmp_path / "run", device="cpu")
    assert notes == []
