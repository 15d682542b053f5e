"""RUN/status.json gives scripts the status of a run, including failures and their reason."""

import errno
import json
import os

import pytest

from hdit_core.checkpoint import status
from hdit_core.checkpoint.layout import status_file
from hdit_core.checkpoint.status import read_status, recording_failure, write_status
from hdit_core.data.format import retry_reads
from hdit_core.data.format.retry_reads import StorageUnavailable
from hdit_core.errors import NumericalError, StoppedEarly


def test_the_status_records_the_state_of_the_run_and_further_fields(tmp_path):
    write_status(tmp_path, "preempted", 5, 320, images_per_s=2.5)
    expected = {"state": "preempted", "step": 5, "num_images": 320, "images_per_s": 2.5}
    assert json.loads(status_file(tmp_path).read_text()) == read_status(tmp_path) == expected


@pytest.mark.parametrize("content", [None, "", "[1]", "{", "[" * 100_000])
def test_a_missing_or_damaged_status_is_read_as_empty(tmp_path, content):
    if content is not None:
        status_file(tmp_path).write_text(content)
    assert read_status(tmp_path) == {}


@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG])
def test_a_status_that_cannot_be_read_is_an_error_and_not_unknown(tmp_path, monkeypatch, number):
    def refuse(path, largest_bytes):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(status, "read_json", refuse)
    with pytest.raises(OSError, match=r"status\.json"):
        read_status(tmp_path)


def test_an_unknown_number_of_steps_is_not_shown(tmp_path):
    status_file(tmp_path).write_text('{"state": "running", "step": null, "num_images": "x", "reason": null}')
    assert read_status(tmp_path) == {"state": "running", "reason": None}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(NumericalError("step 3: nan"), "step 3: nan"), (KeyError(), "KeyError"), (OSError(), "OSError")],
)
def test_a_failed_run_records_the_reason_and_its_progress(tmp_path, error, reason):
    write_status(tmp_path, "running", 3, 24)
    with pytest.raises(type(error)), recording_failure(tmp_path, is_main=True):
        raise error
    assert read_status(tmp_path) == {"state": "failed", "step": 3, "num_images": 24, "reason": reason}


def test_a_request_to_stop_and_the_failure_of_another_rank_leave_the_status_alone(tmp_path):
    write_status(tmp_path, "preempted", 3, 24)
    with pytest.raises(StoppedEarly), recording_failure(tmp_path, is_main=True):
        raise StoppedEarly("stopped")
    with pytest.raises(NumericalError), recording_failure(tmp_path, is_main=False):
        raise NumericalError("nan")
    assert read_status(tmp_path)["state"] == "preempted"


def test_a_status_that_is_temporarily_unreadable_is_read_again(tmp_path, monkeypatch):
    write_status(tmp_path, "running", 3, 24)
    failing, read_json = [errno.EMFILE, errno.ESTALE], status.read_json
    monkeypatch.setattr(retry_reads, "PAUSES_S", (0.001, 0.001))

    def fail(path, largest_bytes):
        if failing:
            raise OSError(failing.pop(), "not now", str(path))
        return read_json(path, largest_bytes)

    monkeypatch.setattr(status, "read_json", fail)
    assert read_status(tmp_path)["step"] == 3
    failing += [errno.ESTALE] * 99
    with pytest.raises(StorageUnavailable, match=r"status\.json: cannot be read \(not now\)"):
        read_status(tmp_path)


def test_a_disk_too_full_for_the_status_does_not_hide_the_reason_of_the_failure(tmp_path, monkeypatch):
    def fail(path, content):
        raise OSError(errno.ENOSPC, "the disk is full", str(path))

    monkeypatch.setattr(status, "write_atomic", fail)
    with pytest.raises(NumericalError, match="step 3: nan"), recording_failure(tmp_path, is_main=True):
        raise NumericalError("step 3: nan")


def test_values_of_another_type_are_not_shown(tmp_path):
    record = {"state": "running", "reason": 3, "images_per_s": "x", "progress": {"step": None, "num_images": 5}}
    status_file(tmp_path).write_text(json.dumps(record))
    assert read_status(tmp_path) == {"state": "running", "progress": {"num_images": 5}}
    status_file(tmp_path).write_text(json.dumps(record | {"progress": [1]}))
    assert read_status(tmp_path) == {"state": "running"}
