"""Preparation killed at random moments, in one process and in several: one root hash, and the same bytes.

The short form is tests/data/prepare/test_kills.py, which also kills at every file operation.
"""

import time

import numpy as np
import pytest

from tests.data.class_folders import bytes_of, write_pictures
from tests.data.killing import KILLED, begin, kill_after

SHARD_SIZE = 16


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Return 250 pictures and two files that are none."""
    return write_pictures(tmp_path_factory.mktemp("many") / "pictures", count=250)


def undisturbed(pictures, folder, workers):
    """Return what is made when it is left alone, and how long that takes."""
    started_at = time.monotonic()
    run = begin(folder, pictures, folder / "undisturbed", workers=workers, shard_size=SHARD_SIZE)
    assert run.wait() == 0
    return bytes_of(folder / "undisturbed"), time.monotonic() - started_at


@pytest.fixture(scope="module")
def expected(pictures, tmp_path_factory):
    return undisturbed(pictures, tmp_path_factory.mktemp("alone"), 1)[0]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_preparation_killed_at_random_moments_gives_the_same_set(pictures, expected, tmp_path, kills, workers):
    made, elapsed_s = undisturbed(pictures, tmp_path / "home", workers)
    assert made == expected
    random = np.random.default_rng(workers)
    killed = sets = 0
    while killed < kills:
        sets += 1
        code = KILLED
        while code == KILLED:
            process = begin(tmp_path / "home", pictures, tmp_path / str(sets), workers=workers, shard_size=SHARD_SIZE)
            code = kill_after(process, random.uniform(0.2, 0.9) * elapsed_s)
            killed += code == KILLED
        assert code == 0
        assert bytes_of(tmp_path / str(sets)) == expected, f"after {killed} kills"
    print(f"{killed} kills with {workers} processes: {sets} sets, all with the same bytes")
