"""Whatever a system call fails with, a command reports it in one line with a path, and works afterwards."""

import sys

import pytest

from tests.cli.faults.injection import COMPILER, Trial

pytestmark = pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="needs Linux and a C compiler")

FAST = {
    "open": "EACCES",
    "read": "EIO",
    "write": "EIO",
    "close": "EDQUOT",
    "fsync": "EIO",
    "rename": "EROFS",
    "stat": "EACCES",
}


@pytest.mark.parametrize("name", ["prepare-data", "train", "sample tar", "export", "convert", "ema", "edit invert"])
def test_a_system_call_that_fails_is_one_line_with_the_path_and_the_command_works_afterwards(server, work, name):
    trial = Trial(server, work, name)
    for call, error in FAST.items():
        if trial.calls[call]:
            trial.inject(call, error, 1 + trial.calls[call] // 2)
