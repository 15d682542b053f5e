"""A full disk, of any size: one line, no older checkpoint lost, no temporary files.

A real small disk where one can be mounted (a tmpfs, for which one has to be root), and everywhere a limit on the size
of files, which ends a write in the middle as a full disk does.
"""

import re
import resource
import shutil
import subprocess

import pytest

from hdit_core.checkpoint.layout import checkpoint_folder, checkpoint_folders
from hdit_core.checkpoint.load import open_checkpoint
from hdit_core.checkpoint.save import needed_bytes, save_checkpoint
from hdit_core.errors import CheckpointError, CheckpointWriteError
from tests.checkpoint.interrupted import begun, content_of, copy_of, parts, save, state

PAGE_BYTES = resource.getpagesize()
NUM_SIZES = 6  # tests/endurance/test_checkpoint_disk_full.py takes more
ONE_LINE = r"step-000000003: cannot be saved.*older checkpoints are intact"


@pytest.fixture
def recipe(changed):
    return changed({"train.keep_checkpoints": 2})


@pytest.fixture
def small_disk(tmp_path):
    """Return a function that mounts a disk of a given size and returns its folder."""
    mounted = []

    def mount(size_bytes):
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
        if (
            shutil.which("mount") is None
            or (tried := subprocess.run(command, capture_output=True, text=True)).returncode
        ):
            pytest.skip(f"no tmpfs can be mounted here: {tried.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def blindly(monkeypatch):
    """Let the disk promise any space, as one with a quota does."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 60, 0, 1 << 60))


def try_to_save(run, recipe, old):
    """Save step 3 on a disk that may be full; check that the old checkpoints remain, and return whether it fit."""
    try:
        save(run, recipe, 3)
    except CheckpointWriteError as error:
        assert error.exit_code == 1  # a problem of the machine and not of the checkpoint
        assert re.search(ONE_LINE, str(error)) and "\n" not in str(error), error
        saved = False
    else:
        saved = True
        old = {2: old[2]}
    for step, content in old.items():
        assert {path.name: path.read_bytes() for path in checkpoint_folder(run, step).iterdir()} == content
    for folder in checkpoint_folders(run):
        open_checkpoint(folder)
    assert set((run / "checkpoints").iterdir()) == set(checkpoint_folders(run))
    assert len(checkpoint_folders(run)) == 2
    return saved


def contents(run):
    return {step: {p.name: p.read_bytes() for p in checkpoint_folder(run, step).iterdir()} for step in (1, 2)}


def sweep_disks(small_disk, run, recipe, num_sizes):
    """Save on disks with 0 to 120 % of the needed space, and return on how many there was room enough."""
    used_bytes = sum(-(-path.stat().st_size // PAGE_BYTES) * PAGE_BYTES for path in run.rglob("*") if path.is_file())
    needed = needed_bytes(recipe, parts(3))
    saved = 0
    for place in range(num_sizes):
        disk = small_disk(used_bytes + int(1.2 * needed * place / (num_sizes - 1)))
        saved += try_to_save(copy_of(run, disk / "run"), recipe, contents(run))
    return saved


@pytest.mark.parametrize("looks", [True, False], ids=["a disk that tells", "a disk that promises too much"])
def test_a_save_on_a_disk_of_any_size_keeps_the_old_checkpoints_and_leaves_no_temporary_files(
    tmp_path, recipe, small_disk, monkeypatch, looks
):
    run = begun(tmp_path / "run", recipe)
    if not looks:
        blindly(monkeypatch)
    assert 0 < sweep_disks(small_disk, run, recipe, NUM_SIZES) < NUM_SIZES


def test_a_write_that_fails_within_any_file_keeps_the_old_checkpoints_and_leaves_no_temporary_files(tmp_path, recipe):
    run = begun(tmp_path / "run", recipe)
    largest = max(path.stat().st_size for path in checkpoint_folder(run, 2).iterdir())
    for place in range(NUM_SIZES):
        trial = copy_of(run, tmp_path / str(place))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest * place // NUM_SIZES, before[1]))
        try:
            with pytest.raises(
                CheckpointError, match=r"cannot be saved \(File too large\); older checkpoints are intact"
            ):
                save_checkpoint(trial, recipe, state(3), parts(3))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert set((trial / "checkpoints").iterdir()) == {checkpoint_folder(trial, step) for step in (1, 2)}
    save(run, recipe, 3)
    assert content_of(run)


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path, recipe, monkeypatch):
    run = begun(tmp_path / "run", recipe)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10_000, 10_000))
    monkeypatch.setattr("hdit_core.checkpoint.save.atomic_folder", None)
    where = (
        r"step-000000003: cannot be saved: it needs [3-9]\d,\d{3} bytes, 10,000 are free; .* intact\. Free disk space"
    )
    with pytest.raises(CheckpointError, match=where):
        save_checkpoint(run, recipe, state(3), parts(3))


def test_the_estimated_space_is_slightly_more_than_a_checkpoint_takes(tmp_path, recipe):
    folder = save_checkpoint(tmp_path, recipe, state(3), parts(3))
    taken = sum(path.stat().st_size for path in folder.iterdir())
    assert taken <= needed_bytes(recipe, parts(3)) < 1.5 * taken
