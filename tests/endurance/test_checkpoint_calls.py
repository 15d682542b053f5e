"""A save that is killed, or fails, at every system call that changes files; also one that replaces a damaged one.

The short form is tests/checkpoint/test_save_calls.py.
"""

import pytest

from tests.checkpoint.interrupted import begun, check_after, content_of, copy_of, save
from tests.checkpoint.tracing import DONE, KILLED, REFUSED, changes, needs_strace, run_traced

pytestmark = needs_strace

ERRORS = ("ENOSPC", "EIO", "EDQUOT")


@pytest.fixture
def recipe(changed):
    return changed({"train.keep_checkpoints": 2})


@pytest.fixture(params=["new", "replacing a damaged one"])
def traced(request, tmp_path, recipe):
    """Return the run before the save, how many of its checkpoints are damaged, what is saved, and the calls."""
    run = begun(tmp_path / "run", recipe)
    if request.param != "new":
        save(run_with_three := copy_of(run, tmp_path / "three"), recipe, 3)
        third = run_with_three / "checkpoints" / "step-000000003"
        (third / "ema.safetensors").unlink()
        third.rename(run / "checkpoints" / third.name)
    alone = copy_of(run, tmp_path / "alone")
    save(copy_of(run, tmp_path / "warm"), recipe, 3)
    assert run_traced(lambda: save(alone, recipe, 3), tmp_path / "log") == DONE
    return run, int(request.param != "new"), content_of(alone), changes(tmp_path / "log")


def test_a_save_killed_before_any_call_leaves_valid_checkpoints(tmp_path, recipe, traced):
    run, damaged, content, calls = traced
    for place, call in enumerate(calls):
        trial = copy_of(run, tmp_path / f"killed-{place}")
        inject = f"{call.name}:signal=KILL:when={call.number}"
        assert run_traced(lambda trial=trial: save(trial, recipe, 3), tmp_path / "log", inject) == KILLED, inject
        check_after(trial, recipe, content, damaged)
    print(f"killed before each of {len(calls)} calls that change files: 0 broken states")


@pytest.mark.parametrize("error", ERRORS)
def test_a_save_with_any_failed_call_leaves_valid_checkpoints(tmp_path, recipe, traced, error):
    run, damaged, content, calls = traced
    for place, call in enumerate(calls):
        trial = copy_of(run, tmp_path / f"refused-{place}")
        inject = f"{call.name}:error={error}:when={call.number}"
        assert run_traced(lambda trial=trial: save(trial, recipe, 3), tmp_path / "log", inject) == REFUSED, inject
        check_after(trial, recipe, content, damaged)
    print(f"{error} at each of {len(calls)} calls that change files: 0 broken states")
