"""An asynchronous save equals a synchronous one; there is one at a time, and a failure is reported immediately."""

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hdit_core.checkpoint.layout import checkpoint_folder, checkpoint_folders, status_file, stop_file
from hdit_core.checkpoint.load import newest_checkpoint, open_checkpoint
from hdit_core.checkpoint.save import save_checkpoint
from hdit_core.checkpoint.state import State
from hdit_core.distributed import World
from hdit_core.errors import CheckpointError, HditError, NumericalError, StoppedEarly
from hdit_core.train import async_checkpoint as saving_module
from hdit_core.train.async_checkpoint import AsyncCheckpointer
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.run import train
from hdit_core.train.step.train_step import Learner


def state(step):
    return State(step=step, num_images=8 * step, data_hash="f" * 64)


def parts(value=1.0):
    return {name: {"weight": torch.full((3, 5), value), "bias": torch.zeros(7)} for name in ("model", "ema")}


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def gate(monkeypatch):
    """Return an event: no checkpoint is written before it is set."""
    opened = threading.Event()

    def wait_and_save(*args):
        assert opened.wait(60)
        return save_checkpoint(*args)

    monkeypatch.setattr(saving_module, "save_checkpoint", wait_and_save)
    yield opened
    opened.set()


@pytest.fixture
def failing(monkeypatch):
    """Let every save fail."""

    def fail(run, recipe, state, parts):
        raise CheckpointError(f"step {state.step}: the disk is full")

    monkeypatch.setattr(saving_module, "save_checkpoint", fail)


def test_checkpoints_saved_in_the_background_and_foreground_have_equal_bytes(tmp_path, tiny_recipe, gate):
    tensors = parts()
    with AsyncCheckpointer(tmp_path / "beside", tiny_recipe, World()) as saver:
        saver.save(state(3), tensors)
        for part in tensors.values():  # the next steps are taken
            for tensor in part.values():
                tensor.add_(100)
        assert not checkpoint_folders(tmp_path / "beside") and not saver.poll()
        gate.set()
        saver.finish()
    expected = save_checkpoint(tmp_path / "before", tiny_recipe, state(3), parts())
    assert bytes_of(checkpoint_folder(tmp_path / "beside", 3)) == bytes_of(expected)


def test_a_second_save_waits_for_the_first(tmp_path, tiny_recipe, gate):
    told = []
    with AsyncCheckpointer(tmp_path, tiny_recipe, World(), lambda state, folder: told.append(state.step)) as saver:
        saver.save(state(1), parts())
        threading.Timer(0.2, gate.set).start()
        assert not told
        saver.save(state(2), parts())
        assert told == [1]  # written, read back and reported before the second one was copied
    assert told == [1, 2]


def test_a_checkpoint_is_reported_once_and_only_when_it_is_on_the_disk(tmp_path, tiny_recipe, gate):
    told = []
    with AsyncCheckpointer(
        tmp_path, tiny_recipe, World(), lambda state, folder: told.append(open_checkpoint(folder))
    ) as saver:
        saver.save(state(1), parts())
        assert not saver.poll() and not told
        gate.set()
        while not told:
            assert not saver.poll()
        assert not saver.poll()
    assert [checkpoint.state.step for checkpoint in told] == [1]


def test_after_a_failure_the_next_check_reports_it_and_finish_raises_it(tmp_path, tiny_recipe, failing):
    with AsyncCheckpointer(tmp_path, tiny_recipe, World()) as saver:
        saver.save(state(4), parts())
        while not saver.poll():
            time.sleep(0.001)
        with pytest.raises(CheckpointError, match="step 4: the disk is full"):
            saver.finish()
        assert not saver.poll()  # once is enough


def test_the_next_save_reports_that_the_last_one_failed(tmp_path, tiny_recipe, failing):
    with AsyncCheckpointer(tmp_path, tiny_recipe, World()) as saver:
        saver.save(state(4), parts())
        with pytest.raises(CheckpointError, match="step 4"):
            saver.save(state(5), parts())


def test_a_failed_save_is_raised_at_the_end_or_noted_beside_another_error(tmp_path, tiny_recipe, failing, notes):
    with (
        pytest.raises(CheckpointError, match="step 4"),
        AsyncCheckpointer(tmp_path, tiny_recipe, World()) as saver,
    ):
        saver.save(state(4), parts())
    with (
        pytest.raises(ZeroDivisionError),
        AsyncCheckpointer(tmp_path, tiny_recipe, World()) as saver,
    ):
        saver.save(state(5), parts())
        _ = 1 // 0
    assert notes == ["step 5: the disk is full"]


@dataclasses.dataclass(frozen=True)
class SecondRank(World):
    """A rank that hears how the main one fared, without one."""

    rank: int = 1
    size: int = 2
    main_failed: bool = False

    def any(self, flag):
        return flag or self.main_failed


def test_other_ranks_write_nothing_and_end_when_the_main_rank_fails(tmp_path, tiny_recipe):
    with AsyncCheckpointer(tmp_path, tiny_recipe, SecondRank()) as saver:
        saver.save(state(1), parts())
        assert not saver.poll()
        saver.finish()
    assert not checkpoint_folders(tmp_path)
    with pytest.raises(HditError, match="rank 1 ends, because the main rank failed"):
        AsyncCheckpointer(tmp_path, tiny_recipe, SecondRank(main_failed=True)).finish()


def test_a_run_whose_save_fails_ends_after_the_current_step(tmp_path, trained, monkeypatch):
    """The save of step 4 fails while step 5 is taken: the run ends after step 5, and has a reason."""
    begun, steps, saves, update, submit = threading.Event(), [], [], Learner.train_step, ThreadPoolExecutor.submit

    def fail(run, recipe, state, parts):
        if state.step < 4:
            return save_checkpoint(run, recipe, state, parts)
        assert begun.wait(60)
        raise CheckpointError("No space left on device")

    def remember(*arguments):
        saves.append(submit(*arguments))
        return saves[-1]

    def record(learner, step, *batches):
        steps.append(step.number + 1)
        if step.number == 4:
            begun.set()
            assert isinstance(saves[-1].exception(60), CheckpointError)
        return update(learner, step, *batches)

    monkeypatch.setattr(saving_module, "save_checkpoint", fail)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", remember)
    monkeypatch.setattr(Learner, "train_step", record)
    with pytest.raises(CheckpointError, match="No space left"):
        train(trained({"train.checkpoint_every_images": 16}), tmp_path)
    assert steps == [1, 2, 3, 4, 5]
    assert newest_checkpoint(tmp_path)[0].state.step == 2
    assert '"failed"' in status_file(tmp_path).read_text()


def test_the_status_is_preempted_only_when_everything_is_on_the_disk(tmp_path, trained, monkeypatch):
    said = []

    def slow(run, recipe, state, parts):
        time.sleep(0.3)
        said.append(status_file(run).read_text())
        return save_checkpoint(run, recipe, state, parts)

    monkeypatch.setattr(saving_module, "save_checkpoint", slow)
    watcher = Callbacks(on_progress=lambda now: stop_file(tmp_path).touch() if now.step == 4 else None)
    with pytest.raises(StoppedEarly):
        train(trained({}), tmp_path, callbacks=watcher)
    assert newest_checkpoint(tmp_path)[0].state.step == 4
    assert len(said) == 1 and '"running"' in said[0] and '"preempted"' in status_file(tmp_path).read_text()


def test_a_run_that_fails_first_finishes_the_save_in_progress(tmp_path, trained, monkeypatch, gate):
    update = Learner.train_step

    def diverge(learner, step, *batches):
        if step.number == 5:
            threading.Timer(0.2, gate.set).start()
            raise NumericalError("the loss is nan")
        return update(learner, step, *batches)

    monkeypatch.setattr(Learner, "train_step", diverge)
    with pytest.raises(NumericalError):
        train(trained({"train.checkpoint_every_images": 32}), tmp_path)
    assert newest_checkpoint(tmp_path)[0].state.step == 4


def test_asynchronous_saving_changes_no_bit_of_a_run(tmp_path, trained, monkeypatch):
    """Also if the writer is slower than the steps; compared with the same run with synchronous saves."""
    recipe, save = (
        trained({"train.num_images": 64, "train.checkpoint_every_images": 16, "train.keep_checkpoints": 20}),
        AsyncCheckpointer.save,
    )

    def slow(*args):
        time.sleep(0.03)
        return save_checkpoint(*args)

    monkeypatch.setattr(saving_module, "save_checkpoint", slow)
    train(recipe, tmp_path / "beside")

    def save_and_wait(saver, *args):
        save(saver, *args)
        saver.finish()

    monkeypatch.setattr(AsyncCheckpointer, "save", save_and_wait)
    train(recipe, tmp_path / "waiting")
    folders = checkpoint_folders(tmp_path / "beside")
    assert len(folders) == 4
    for folder in folders:
        ours, theirs = bytes_of(folder), bytes_of(tmp_path / "waiting" / "checkpoints" / folder.name)
        assert ours.keys() == theirs.keys()
        # state.json has times in it, and the manifest its checksum
        assert all(ours[name] == theirs[name] for name in ours if name.endswith(".safetensors"))
