"""Fifty sizes of disk, with and without the check of free space. The short form is test_disk_full.py."""

import pytest

from tests.checkpoint.interrupted import begun
from tests.checkpoint.test_disk_full import blindly, recipe, small_disk, sweep_disks  # noqa: F401 (fixtures)

NUM_SIZES = 50


@pytest.mark.parametrize("looks", [True, False], ids=["a disk that tells", "a disk that promises too much"])
def test_a_save_on_disks_of_fifty_sizes_loses_no_checkpoint(tmp_path, recipe, small_disk, monkeypatch, looks):  # noqa: F811
    run = begun(tmp_path / "run", recipe)
    if not looks:
        blindly(monkeypatch)
    saved = sweep_disks(small_disk, run, recipe, NUM_SIZES)
    assert 0 < saved < NUM_SIZES
    print(f"{NUM_SIZES} sizes: saved on {saved}, refused on {NUM_SIZES - saved}; 0 old checkpoints lost, 0 rests")
