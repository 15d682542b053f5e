"""Preparation killed at any moment and run again: the same bytes, no work repeated, no files left behind."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hdit_core.data.prepare.array_task import ArrayTask
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import finish_data, prepare_data, prepare_task
from hdit_core.errors import UsageError
from tests.data.class_folders import bytes_of
from tests.data.killing import KILLED, begin, die_at, kill_after


@pytest.mark.slow
def test_preparation_killed_at_any_step_resumes_to_the_same_bytes(pictures, prepare, tmp_path):
    """With a duplicate to leave out, so that a shard is written again: the longest way that there is."""
    (pictures / "cow" / "999.png").write_bytes((pictures / "ant" / "000.png").read_bytes())
    prepare(pictures, name="undisturbed", shard_size=13, drop_duplicates=True)
    expected = bytes_of(tmp_path / "undisturbed")
    step = 0
    killed = True
    while killed:
        step += 1
        settings = PrepareSettings(
            str(pictures), tmp_path / f"set-{step}", (8, 12), shard_size=13, drop_duplicates=True
        )
        killed = die_at(step, lambda settings=settings: prepare_data(settings))
        prepare_data(settings)
        assert bytes_of(settings.out) == expected, step
    assert step > 20


@pytest.mark.slow
def test_tasks_killed_at_any_step_resume_to_the_same_bytes(pictures, prepare, tmp_path):
    prepare(pictures, name="undisturbed", shard_size=13)
    expected = bytes_of(tmp_path / "undisturbed")
    for step in range(1, 40):
        settings = PrepareSettings(str(pictures), tmp_path / f"set-{step}", (8, 12), shard_size=13)
        killed = []
        for share in (ArrayTask(1, 2), ArrayTask(0, 2)):
            killed.append(die_at(step, lambda share=share, settings=settings: prepare_task(settings, share)))
            prepare_task(settings, share)
        killed.append(die_at(step, lambda settings=settings: finish_data(settings)))
        finish_data(settings)
        assert bytes_of(settings.out) == expected, step
        if not any(killed):
            break
    assert 12 < step < 39


def test_a_repeatedly_killed_preparation_finishes(pictures, prepare, tmp_path):
    """Each attempt gets one step further than the one before; nothing that is done is made again."""
    prepare(pictures, name="undisturbed")
    settings = PrepareSettings(str(pictures), tmp_path / "set", (8, 12), shard_size=7)
    for step in range(1, 60):
        if not die_at(step, lambda: prepare_data(settings)):
            break
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "undisturbed")


def processes_of(folder):
    """Return the ids of processes whose working folder this is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").resolve() == folder and (process / "stat").read_text().split(")")[1].split()[0] != "Z":
                found.append(int(process.name))
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_a_killed_preparation_ends_its_processes_and_resumes(pictures, prepare, tmp_path):
    prepare(pictures, name="undisturbed")
    home = tmp_path / "home"
    run = begin(home, pictures, tmp_path / "set", workers=2)
    wait_until(lambda: list((tmp_path / "set").glob("shard-*.tar")) or run.poll() is not None)
    run.kill()
    run.wait()
    wait_until(lambda: not processes_of(home))
    assert not processes_of(home)
    prepare(pictures, workers=2)
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "undisturbed")


def wait_until(happened, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.002)


def interrupt(pictures, prepare, **settings):
    def stop(done, total, bad):
        if done == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(pictures, on_progress=stop, **settings)


def test_four_tasks_killed_at_random_resume_to_the_same_bytes(pictures, prepare, tmp_path):
    """The short form of tests/endurance/test_prepare_kills_tasks.py."""
    prepare(pictures, name="undisturbed", shard_size=4)
    delays = iter(np.random.default_rng(0).uniform(0.1, 0.6, 3))
    for delay_s in delays:
        tasks = [begin(tmp_path / "home", pictures, tmp_path / "set", f"{task}/4", shard_size=4) for task in range(4)]
        assert {kill_after(task, delay_s) for task in tasks} <= {0, KILLED}
    settings = PrepareSettings(str(pictures), tmp_path / "set", (8, 12), shard_size=4)
    for task in range(4):
        prepare_task(settings, ArrayTask(task, 4))
    finish_data(settings)
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "undisturbed")


def test_finished_work_is_not_repeated(pictures, prepare, tmp_path):
    interrupt(pictures, prepare)
    done = {path: path.stat().st_ino for path in (tmp_path / "set").glob("shard-*.tar")}
    assert len(done) == 2
    calls = []
    prepare(pictures, on_progress=lambda *call: calls.append(call))
    assert calls[0][0] == 7
    assert calls[-1] == (25, 25, 2)
    assert done == {path: path.stat().st_ino for path in done}


def test_a_damaged_shard_is_written_again(pictures, prepare, tmp_path):
    prepare(pictures, name="undisturbed")
    interrupt(pictures, prepare)
    path = tmp_path / "set" / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    prepare(pictures)
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "undisturbed")


def test_an_unfinished_set_is_not_mixed_with_other_settings(pictures, prepare):
    interrupt(pictures, prepare)
    with pytest.raises(UsageError, match="an unfinished data set made from other images or with other settings"):
        prepare(pictures, crop="fit")


def test_a_damaged_journal_is_an_error(pictures, prepare, tmp_path):
    interrupt(pictures, prepare)
    (tmp_path / "set" / ".unfinished" / "plan-0-of-1.json").write_text("{")
    with pytest.raises(UsageError, match=r"\.unfinished: damaged; delete"):
        prepare(pictures)


def test_a_second_concurrent_preparation_is_refused(pictures, prepare, tmp_path):
    refusals = []

    def second(done, total, bad):
        if done == 3:  # in another process: a lock keeps out nobody of its own
            code = (
                "import sys; from pathlib import Path; from hdit_core.data.prepare.run import *\n"
                "prepare_data(PrepareSettings(sys.argv[1], Path(sys.argv[2]), (8, 12), shard_size=7))\n"
            )
            command = [sys.executable, "-c", code, str(pictures), str(tmp_path / "set")]
            refusals.append(subprocess.run(command, capture_output=True, text=True).stderr)

    assert prepare(pictures, on_progress=second).images == 23
    assert "another hdit prepare-data is writing the same images to it" in refusals[0]
