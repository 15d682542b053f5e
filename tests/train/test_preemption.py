"""The end of a job's time, and when a run starts its last save."""

import os

import pytest

from hdit_core.train.preemption import Deadline, job_end_s, seconds_left, stop_signals


@pytest.mark.parametrize("slowest_s", [0.0, 45.0])
def test_the_last_save_starts_two_slowest_saves_and_a_minute_before_the_end(slowest_s):
    clock = [0.0]
    deadline = Deadline(1000.0, lambda: slowest_s, now=lambda: clock[0])
    for now, passed in ((0.0, False), (939.0 - 2 * slowest_s, False), (940.0 - 2 * slowest_s, True), (2000.0, True)):
        clock[0] = now
        assert deadline.passed() == passed


def test_without_an_end_time_the_deadline_never_passes():
    assert not Deadline(None, lambda: 0.0, now=lambda: 1e12).passed()


def test_the_end_of_a_job_is_from_the_environment_or_from_squeue(tmp_path, monkeypatch, caplog):
    assert job_end_s({"SLURM_JOB_END_TIME": "99999999999", "SLURM_JOB_ID": "7"}) == 99_999_999_999
    assert job_end_s({}) is None
    caplog.set_level("INFO", "hdit")
    assert job_end_s({"SLURM_JOB_END_TIME": "1700000000"}) is None
    assert "SLURM_JOB_END_TIME is in the past and is ignored" in caplog.text

    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\n[ "$3" = 7 ] && echo 1-02:03:04\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("time.time", lambda: 100.0)
    assert job_end_s({"SLURM_JOB_ID": "7"}) == 100.0 + 86_400 + 2 * 3600 + 3 * 60 + 4
    assert job_end_s({"SLURM_JOB_ID": "8"}) is None
    assert job_end_s({"SLURM_JOB_ID": "7; rm -rf /"}) is None


@pytest.mark.parametrize(("text", "seconds"), [("4:05", 245), ("1:00:00", 3600), ("2-00:00:01", 172_801)])
def test_times_in_the_format_of_squeue_are_read(text, seconds):
    assert seconds_left(text) == seconds


@pytest.mark.parametrize("text", ["", "UNLIMITED", "NOT_SET", "INVALID", "5", "1-2"])
def test_an_invalid_time_is_none(text):
    assert seconds_left(text) is None


def test_a_deadline_that_passed_is_a_request_to_stop(tmp_path):
    with stop_signals(tmp_path / "STOP", Deadline(100.0, lambda: 0.0, now=lambda: 50.0)) as stop:
        assert stop.raised() and stop.reason == "the end of the Slurm job's time"
