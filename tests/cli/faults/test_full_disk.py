"""A disk that becomes full at any write: one line with the path, no partial files, and a rerun works with space."""

import sys

import pytest

from tests.cli.faults.injection import COMPILER, Trial

pytestmark = pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="needs Linux and a C compiler")


@pytest.mark.parametrize("name", ["prepare-data", "train", "sample", "restore", "export diffusers", "eval-fid stats"])
def test_a_disk_that_becomes_full_is_one_line_and_leaves_nothing_half_written(server, work, name):
    trial = Trial(server, work, name)
    ended = trial.inject("write", "ENOSPC", 1 + trial.calls["write"] // 2, last=1 << 30)
    assert ended.code == 1 and "No space left on device" in ended.stderr
