"""If a step of several ranks cannot end, the main rank saves the last complete one, and the run can be resumed."""

import errno
import os
import pickle
import signal
import time

import pytest
import torch

from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.status import read_status
from hdit_core.data.format import retry_reads
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.errors import HditError
from hdit_core.train import interrupted_step
from hdit_core.train.run import train
from hdit_core.train.step.train_step import Learner
from hdit_core.train.step.update_gate import UpdateGate
from tests.conftest import collected_messages
from tests.train.ranks import started


def hang_in_step_3(recipe, run, which, how, ready):
    """Train; in the third step, one of the ranks begins to wait, and writes a file."""
    rank, steps, train_step, read = int(os.environ["RANK"]), [], Learner.train_step, ImageReader.read

    def count(learner, step, *rest):
        steps.append(step.number)
        if rank == which and step.number == 2 and how in ("frozen", "asleep"):
            ready.touch()
            freeze() if how == "frozen" else time.sleep(10_000)
        return train_step(learner, step, *rest)

    def wait_for_data(reader, index):
        if rank == which and how == "data" and 2 in steps:
            ready.touch()
            time.sleep(10_000)
        if rank == which and how == "storage" and 2 in steps:
            retry_reads.retry_transient(run, fail)
        return read(reader, index)

    Learner.train_step, ImageReader.read = count, wait_for_data
    retry_reads.PAUSES_S, interrupted_step.PATIENCE_S = (0.1,), 1.0
    with collected_messages() as messages:
        try:
            train(recipe, run)
        except HditError as error:
            return type(error).__name__, error.exit_code, str(error), messages
    return "nothing", 0, "", messages


def freeze():
    os.kill(os.getpid(), signal.SIGSTOP)


def fail():
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def answer_of(receive):
    """Return a rank's result, None if it ends without one."""
    assert receive.poll(60)
    try:
        done, answer = pickle.loads(receive.recv_bytes())
    except EOFError:
        return None
    assert done, answer
    return answer


def stop_in_step_3(recipe, run, which, how, asked):
    """Let a rank hang in step 3, ask one to stop, and return the exit code and the answer of the main rank."""
    ready = run.parent / "ready"
    with started(2, hang_in_step_3, recipe, run, which, how, ready) as ranks:
        deadline = time.monotonic() + 120
        while not ready.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        os.kill(ranks[asked][0].pid, signal.SIGTERM)
        began_at = time.monotonic()
        process, receive = ranks[0]
        answer = answer_of(receive)
        process.join(60)
        assert time.monotonic() - began_at < 30  # 3 on an idle machine
        other = answer_of(ranks[1][1]) if how == "data" else None
        return process.exitcode, answer, other


@pytest.mark.parametrize("how", ["frozen", "asleep"])
def test_the_main_rank_saves_the_last_complete_step_if_another_rank_does_not_complete_the_next(tmp_path, trained, how):
    recipe, run = trained({"train.num_images": 10**6, "train.checkpoint_every_images": 10**6}), tmp_path / "run"
    exit_code, answer, _ = stop_in_step_3(recipe, run, 1, how, asked=0)
    assert (exit_code, answer) == (75, None)  # it ends within the step
    assert newest_checkpoint(run)[0].state.step == 2
    status = read_status(run)
    assert (status["state"], status["step"], status["reason"]) == ("preempted", 2, "SIGTERM")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("asked", [0, 1])
def test_a_rank_that_waits_for_data_stops_whichever_rank_was_signaled_and_the_last_complete_step_is_saved(
    tmp_path, trained, which, asked
):
    recipe, run = trained({"train.num_images": 10**6, "train.checkpoint_every_images": 10**6}), tmp_path / "run"
    exit_code, answer, other = stop_in_step_3(recipe, run, which, "data", asked)
    assert exit_code == 75 or answer[1] == 75
    assert other is None or other[1] == 75
    assert newest_checkpoint(run)[0].state.step == 2
    status = read_status(run)
    assert status["state"] == "preempted" and status["step"] == 2 and status["reason"].startswith("SIGTERM")


@pytest.mark.parametrize("which", [0, 1])
def test_the_last_complete_step_is_saved_if_the_storage_of_one_rank_fails_for_long(tmp_path, trained, which):
    recipe, run = trained({"train.num_images": 10**6, "train.checkpoint_every_images": 10**6}), tmp_path / "run"
    with started(2, hang_in_step_3, recipe, run, which, "storage", tmp_path / "ready") as ranks:
        answers = [answer_of(receive) for _, receive in ranks]
    assert [answer[1] for answer in answers] == [75, 75], answers
    assert "cannot be read" in answers[0][2] and "Step 2 (16 images) is saved" in answers[0][2]
    assert newest_checkpoint(run)[0].state.step == 2
    assert read_status(run)["state"] == "preempted"


def test_a_gate_closes_only_between_updates():
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    gate = UpdateGate(optimizer)
    optimizer.step()
    assert not gate.is_whole and not gate.close()
    gate.step_ended()
    assert gate.is_whole and gate.close()
