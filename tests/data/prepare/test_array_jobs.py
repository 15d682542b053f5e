"""Several tasks write one data set in one folder, byte for byte that of a single process."""

import os
from pathlib import Path

import numpy as np
import pytest

from hdit_core.data.prepare.array_task import ArrayTask
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import PrepareSummary, finish_data, prepare_data, prepare_task
from hdit_core.errors import DataError, UsageError
from tests.data.class_folders import SIZE, bytes_of
from tests.data.prepare.waiting_task import begin


@pytest.fixture
def settings(pictures, tmp_path):
    """Return the settings of a set of five shards, two of them with a file that cannot be used."""
    return PrepareSettings(source=str(pictures), out=tmp_path / "set", size=SIZE, shard_size=5)


@pytest.fixture
def alone(pictures, tmp_path):
    """Return the result of a single process."""
    prepare_data(PrepareSettings(source=str(pictures), out=tmp_path / "alone", size=SIZE, shard_size=5))
    return bytes_of(tmp_path / "alone")


def facts_of(folder):
    """Return what changes when anything in a folder is written: every name, inode, size and time."""
    paths = [folder, *folder.rglob("*")]
    return {
        path: (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        for path in paths
        for stat in [path.stat()]
    }


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_tasks_in_any_order_write_the_set_of_one_process(settings, alone, count):
    for index in np.random.default_rng(count).permutation(count):
        summary = prepare_task(settings, ArrayTask(int(index), count))
        assert summary.task == f"{index}/{count}"
    assert not (settings.out / "manifest.json").exists()
    assert finish_data(settings).rejects == 2
    assert bytes_of(settings.out) == alone


def test_a_task_counts_its_own_inputs(settings):
    calls = []
    summary = prepare_task(settings, ArrayTask(1, 3), lambda *call: calls.append(call))
    assert (summary.inputs, summary.shards) == (10, 2)
    assert calls[-1][:2] == (10, 10)


def test_a_finished_task_writes_nothing(settings):
    prepare_task(settings, ArrayTask(0, 2))
    before = facts_of(settings.out)
    prepare_task(settings, ArrayTask(0, 2))
    assert facts_of(settings.out) == before


def test_on_a_complete_set_tasks_and_the_last_step_write_nothing(settings):
    prepare_data(settings)
    before = facts_of(settings.out)
    for again in (prepare_task(settings, ArrayTask(1, 2)), finish_data(settings), prepare_data(settings)):
        assert isinstance(again, PrepareSummary)
        assert again.already_complete
    assert facts_of(settings.out) == before


def test_the_last_step_names_the_tasks_that_are_missing(settings):
    prepare_task(settings, ArrayTask(2, 4))
    prepare_task(settings, ArrayTask(0, 4))
    message = r"set: 2 of 5 shards are missing or damaged, the first is shard-000001.tar; run again: --task 1/4, 3/4$"
    with pytest.raises(DataError, match=message):
        finish_data(settings)


def test_the_last_step_finds_every_damaged_shard(settings, alone):
    for index in range(4):
        prepare_task(settings, ArrayTask(index, 4))
    path = settings.out / "shard-000002.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"the first is shard-000002.tar; run again: --task 2/4$"):
        finish_data(settings)
    prepare_task(settings, ArrayTask(2, 4))
    finish_data(settings)
    assert bytes_of(settings.out) == alone


def test_finishing_without_tasks_names_the_missing_command(settings):
    with pytest.raises(DataError, match=r"5 of 5 shards are missing .* run the same command without --finish"):
        finish_data(settings)


def test_one_process_finishes_the_work_of_tasks(settings, alone):
    prepare_task(settings, ArrayTask(1, 3))
    done = facts_of(settings.out)
    prepare_data(settings)
    assert bytes_of(settings.out) == alone
    assert all(facts_of(settings.out)[path] == done[path] for path in done if path.suffix == ".tar")


def test_any_number_of_tasks_resumes_the_work_of_others(settings, alone):
    prepare_task(settings, ArrayTask(1, 3))
    for index in range(2):
        prepare_task(settings, ArrayTask(index, 2))
    finish_data(settings)
    assert bytes_of(settings.out) == alone


def test_more_tasks_than_shards_leave_some_without_work(settings):
    assert prepare_task(settings, ArrayTask(7, 9)).inputs == 0


def test_concurrent_tasks_write_the_set_of_one_process(settings, alone):
    tasks = [begin(settings, ArrayTask(index, 3)) for index in range(3)]
    assert [task.finish() for task in tasks] == [0, 0, 0]
    finish_data(settings)
    assert bytes_of(settings.out) == alone


def test_a_share_locked_by_another_process_is_refused_and_others_are_not(settings):
    task = begin(settings, ArrayTask(0, 2))
    for share in (ArrayTask(0, 2), ArrayTask(0, 1), ArrayTask(2, 4)):
        with pytest.raises(UsageError, match="another hdit prepare-data is writing the same images to it"):
            prepare_task(settings, share)
    with pytest.raises(UsageError, match="another hdit prepare-data is writing the same images to it"):
        finish_data(settings)
    assert prepare_task(settings, ArrayTask(1, 2)).inputs == 10
    assert task.finish() == 0


def test_a_lock_ends_with_its_process(settings, alone):
    task = begin(settings, ArrayTask(0, 2))
    task.process.kill()
    task.process.join(100)
    prepare_task(settings, ArrayTask(0, 2))
    prepare_task(settings, ArrayTask(1, 2))
    finish_data(settings)
    assert bytes_of(settings.out) == alone


def test_files_that_another_task_is_writing_are_left_alone(settings):
    prepare_task(settings, ArrayTask(0, 2))
    foreign, own = (settings.out / f".tmp-shard-00000{number}.tar-1" for number in (1, 2))
    for path in (foreign, own):
        path.write_text("half")
    prepare_task(settings, ArrayTask(0, 2))
    assert foreign.exists()
    assert not own.exists()


def test_tasks_with_other_settings_are_refused(settings, pictures):
    prepare_task(settings, ArrayTask(0, 2))
    other = PrepareSettings(source=str(pictures), out=settings.out, size=SIZE, shard_size=4)
    with pytest.raises(UsageError, match="an unfinished data set made from other images or with other settings"):
        prepare_task(other, ArrayTask(1, 2))
    assert not list(settings.out.glob(".unfinished/plan-1-*"))


def test_two_concurrent_tasks_with_different_settings_are_both_refused(settings, monkeypatch):
    """The other's plan appears between the look and the own plan."""
    from hdit_core.data.prepare import journal

    write = journal.write_atomic

    def with_another(path, content):
        write(path, content)
        if path.name.startswith("plan-0"):
            write(path.with_name("plan-1-of-2.json"), '{"fingerprint": "other"}')

    monkeypatch.setattr(journal, "write_atomic", with_another)
    with pytest.raises(UsageError, match="made from other images or with other settings"):
        prepare_task(settings, ArrayTask(0, 2))
    assert [path.name for path in settings.out.glob(".unfinished/plan-*")] == ["plan-1-of-2.json"]


def test_a_folder_with_other_files_is_refused_by_a_task(settings):
    settings.out.mkdir()
    (settings.out / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"is not empty .contains .thesis.tex.. and not a data set"):
        prepare_task(settings, ArrayTask(0, 2))
    assert bytes_of(settings.out) == {"thesis.tex": b"years of work"}


def test_too_many_bad_files_of_all_tasks_end_the_last_step(pictures, tmp_path):
    settings = PrepareSettings(str(pictures), tmp_path / "set", SIZE, shard_size=5, max_bad="1")
    for index in range(5):
        assert isinstance(prepare_task(settings, ArrayTask(index, 5)).rejects, int)
    with pytest.raises(DataError, match="of 25 inputs are unusable, more than --max-bad 1; the last"):
        finish_data(settings)


def test_a_file_system_without_locks_is_logged(settings, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(os.strerror(38), 38)

    monkeypatch.setattr("fcntl.lockf", no_locks)
    prepare_task(settings, ArrayTask(0, 2))
    assert "its file system has no locks" in caplog.text


def test_a_share_may_be_taken_when_its_holder_has_just_finished_the_set(settings, monkeypatch):
    """The lock file may be removed between opening and locking it: the next one is used."""
    import fcntl

    real, removed = fcntl.lockf, []

    def late(descriptor, *more):
        real(descriptor, *more)
        if not removed:
            removed.append(True)
            Path(f"/proc/self/fd/{descriptor}").resolve().unlink()

    monkeypatch.setattr("fcntl.lockf", late)
    assert prepare_task(settings, ArrayTask(0, 2)).inputs == 15
    assert (settings.out / ".unfinished" / "lock").exists()
