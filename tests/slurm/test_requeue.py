"""Whether a run is requeued: only while it makes progress, and not if it failed or a user stopped it."""

import json

import pytest

from hdit_core.checkpoint.layout import checkpoint_folder
from hdit_core.checkpoint.status import write_status
from hdit_core.errors import UsageError
from hdit_core.slurm.requeue import COUNT, saved_step, should_requeue


def saved(run, step):
    checkpoint_folder(run, step).mkdir(parents=True)


@pytest.mark.parametrize("state", ["running", "preempted"])
def test_a_killed_or_preempted_run_is_requeued_while_each_attempt_makes_progress(tmp_path, state):
    for step in range(10, 110, 10):
        saved(tmp_path, step)
        write_status(tmp_path, state, step, step)
        assert should_requeue(tmp_path, 3, asked=True).requeue


def test_after_three_attempts_without_progress_a_run_is_not_requeued(tmp_path):
    saved(tmp_path, 10)
    assert should_requeue(tmp_path, 3, asked=True).requeue
    assert [should_requeue(tmp_path, 3, asked=True).requeue for _ in range(4)] == [True, True, True, False]
    assert "no progress beyond step 10 in 3 further attempts" in should_requeue(tmp_path, 3, asked=True).reason

    saved(tmp_path, 20)
    assert should_requeue(tmp_path, 3, asked=True).requeue  # a later job made progress: the count restarts
    assert json.loads((tmp_path / COUNT).read_text()) == {"step": 20, "without_progress": 0}


def test_a_run_that_dies_before_its_first_checkpoint_has_three_attempts(tmp_path):
    assert [should_requeue(tmp_path, 2, asked=False).requeue for _ in range(3)] == [True, True, False]


def test_a_lost_checkpoint_is_not_progress(tmp_path):
    saved(tmp_path, 10)
    should_requeue(tmp_path, 3, asked=True)
    checkpoint_folder(tmp_path, 10).rmdir()
    should_requeue(tmp_path, 3, asked=True)

    assert json.loads((tmp_path / COUNT).read_text()) == {"step": 10, "without_progress": 1}


def test_a_finished_or_failed_run_is_not_requeued_and_the_reason_is_printed(tmp_path):
    write_status(tmp_path, "done", 10, 10)
    assert should_requeue(tmp_path, 3, asked=True).reason == "the run is done"

    write_status(tmp_path, "failed", 10, 10, reason="step 10: the loss is nan")
    found = should_requeue(tmp_path, 3, asked=True)
    assert not found.requeue and "step 10: the loss is nan" in found.reason


def test_a_users_stop_file_is_respected_and_slurms_is_not(tmp_path):
    write_status(tmp_path, "preempted", 10, 10, reason=f"the file {tmp_path}/STOP")
    assert not should_requeue(tmp_path, 3, asked=False).requeue
    assert should_requeue(tmp_path, 3, asked=True).requeue

    write_status(tmp_path, "preempted", 10, 10, reason="SIGTERM")
    assert should_requeue(tmp_path, 3, asked=False).requeue


def test_a_damaged_count_starts_from_zero(tmp_path):
    (tmp_path / COUNT).write_text("{")
    assert should_requeue(tmp_path, 3, asked=True).requeue


def test_the_newest_checkpoint_counts(tmp_path):
    assert saved_step(tmp_path) == 0
    for step in (5, 40, 12):
        saved(tmp_path, step)
    assert saved_step(tmp_path) == 40


def test_a_missing_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere: no such run; hdit train creates it"):
        should_requeue(tmp_path / "nowhere", 3, asked=True)
