"""A save that is killed or fails at any system call that changes files loses nothing and leaves no temporary files.

A sample of the calls; tests/endurance/test_checkpoint_calls.py takes every one.
"""

import re

import pytest

from tests.checkpoint.interrupted import begun, check_after, content_of, copy_of, save
from tests.checkpoint.tracing import DONE, KILLED, REFUSED, changes, needs_strace, run_traced

pytestmark = needs_strace

ERRORS = {
    "fsync": "EIO",
    "fdatasync": "EIO",
    "rename": "EXDEV",
    "unlink": "EACCES",
    "unlinkat": "EACCES",
    "rmdir": "EACCES",
}
"""What befalls a call; others meet a full disk."""


@pytest.fixture
def recipe(changed):
    return changed({"train.keep_checkpoints": 2})


@pytest.fixture
def traced(tmp_path, recipe):
    """Return the run before the save, the content of the one after it, and the calls in between."""
    run = begun(tmp_path / "run", recipe)
    alone = copy_of(run, tmp_path / "alone")
    save(copy_of(run, tmp_path / "warm"), recipe, 3)  # whatever is looked up once is
    assert run_traced(lambda: save(alone, recipe, 3), tmp_path / "log") == DONE
    return run, content_of(alone), changes(tmp_path / "log")


def test_the_trace_shows_every_file_and_both_folders_flushed_before_the_rename(traced):
    _, content, calls = traced
    assert len({call.thread for call in calls}) == 1 and len(calls) > 25  # only the thread that saves
    named = next(
        place
        for place, call in enumerate(calls)
        if call.name.startswith("rename") and "step-000000003" in call.arguments
    )
    flushed = [re.search(r"<(.*)>", call.arguments)[1] for call in calls[:named] if call.name == "fsync"]
    assert content.keys() <= {path.rpartition("/")[2] for path in flushed}
    assert any(path.rpartition("/")[2].startswith(".tmp-step-000000003") for path in flushed)
    after = [call.arguments for call in calls[named:] if call.name == "fsync"]
    assert after and after[0].endswith("checkpoints>")


def test_a_run_killed_before_a_system_call_resumes_from_valid_checkpoints(tmp_path, recipe, traced):
    run, content, calls = traced
    for call in calls[::6]:
        trial = copy_of(run, tmp_path / f"{call.name}-{call.number}")
        inject = f"{call.name}:signal=KILL:when={call.number}"
        assert run_traced(lambda trial=trial: save(trial, recipe, 3), tmp_path / "log", inject) == KILLED, inject
        check_after(trial, recipe, content)


def test_a_failed_system_call_is_one_line_and_the_run_resumes_from_valid_checkpoints(tmp_path, recipe, traced):
    run, content, calls = traced
    for call in calls[::6]:
        trial = copy_of(run, tmp_path / f"{call.name}-{call.number}")
        inject = f"{call.name}:error={ERRORS.get(call.name, 'ENOSPC')}:when={call.number}"
        assert run_traced(lambda trial=trial: save(trial, recipe, 3), tmp_path / "log", inject) == REFUSED, inject
        check_after(trial, recipe, content)
