"""Four tasks on one folder, and their last step, each killed at random moments and run again: the same bytes."""

import time

import numpy as np
import pytest

from tests.data.class_folders import bytes_of, write_pictures
from tests.data.killing import KILLED, begin, kill_after

SHARD_SIZE = 12
TASKS = [f"{index}/4" for index in range(4)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Return 240 pictures, two files that are none, and three pictures that are there twice."""
    folder = write_pictures(tmp_path_factory.mktemp("many") / "pictures", count=240)
    for number in (0, 3, 6):
        (folder / "cow" / f"9{number}.png").write_bytes((folder / "ant" / f"{number:03}.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory):
    """Return what one process makes when it is left alone, and how long that takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    started_at = time.monotonic()
    assert begin(folder / "home", pictures, folder / "set", shard_size=SHARD_SIZE, drop=True).wait() == 0
    return bytes_of(folder / "set"), time.monotonic() - started_at


def test_tasks_killed_at_random_moments_give_the_same_set(pictures, undisturbed, tmp_path, kills):
    expected, elapsed_s = undisturbed
    random = np.random.default_rng(0)
    killed = sets = 0

    def attempt(shares):
        """Run shares side by side, kill each at a moment of its own; return those that are not done."""
        nonlocal killed
        running = [
            begin(tmp_path / "home", pictures, tmp_path / str(sets), share, shard_size=SHARD_SIZE, drop=True)
            for share in shares
        ]
        codes = [kill_after(process, random.uniform(0.1, 1.0) * elapsed_s) for process in running]
        assert set(codes) <= {0, KILLED}
        killed += codes.count(KILLED)
        return [share for share, code in zip(shares, codes, strict=True) if code == KILLED]

    while killed < kills:
        sets += 1
        left = random.permutation(TASKS).tolist()
        while left:
            left = attempt(left)
        while attempt(["finish"]):
            pass
        assert bytes_of(tmp_path / str(sets)) == expected, f"after {killed} kills"
    print(f"{killed} kills of 4 tasks and their last step: {sets} sets, all with the same bytes")
