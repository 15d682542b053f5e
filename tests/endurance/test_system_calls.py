"""Each errno at `--calls` system calls of each kind, spread evenly over all that a command makes, for each command."""

import sys

import pytest

from tests.cli.faults.commands import COMMANDS
from tests.cli.faults.conftest import server, work
from tests.cli.faults.injection import COMPILER, Trial

__all__ = ["server", "work"]  # fixtures
pytestmark = pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="needs Linux and a C compiler")

ERRORS = {
    "open": ("EACCES", "EMFILE", "EIO", "ESTALE", "EPERM", "ENFILE", "ELOOP", "ENAMETOOLONG", "ENOSPC", "ETIMEDOUT"),
    "read": ("EIO", "ESTALE", "ETIMEDOUT", "ENOMEM", "EINTR"),
    "write": ("ENOSPC", "EIO", "EDQUOT", "EROFS", "ESTALE", "EFBIG", "EPERM", "EINTR"),
    "close": ("EIO", "ENOSPC", "EDQUOT", "ESTALE"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EINVAL", "ESTALE"),
    "rename": ("EACCES", "EIO", "EROFS", "ENOSPC", "EDQUOT", "EPERM", "ESTALE", "EXDEV", "EBUSY"),
    "mkdir": ("EACCES", "EIO", "ENOSPC", "EROFS", "EDQUOT", "ENAMETOOLONG", "EPERM", "ESTALE"),
    "stat": ("EACCES", "EIO", "ESTALE", "ETIMEDOUT"),
    "unlink": ("EACCES", "EIO", "EROFS", "EPERM", "EBUSY", "ESTALE"),
    "list": ("EACCES", "EIO", "EMFILE", "ESTALE"),
    "utime": ("EACCES", "EIO", "EPERM", "EROFS", "ESTALE"),
}
"""What each kind of call fails with on a disk or a network file system that has something to complain about."""


def faults(calls, number, command):
    """Yield kind, errno and number of the calls that are to fail: `number` of each kind, evenly over all of them.

    Other commands begin with other errors, so that all together meet every error of every kind.
    """
    for kind, (call, count) in enumerate(calls.items()):
        for place in range(number if count else 0):
            error = ERRORS[call][(command + kind + place) % len(ERRORS[call])]
            yield call, error, 1 + (count - 1) * place // max(1, number - 1)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_errno_is_one_line_with_the_path_and_the_command_works_afterwards(server, work, name, calls):
    trial, failures = Trial(server, work, name), []
    for call, error, first in dict.fromkeys(faults(trial.calls, calls, list(COMMANDS).index(name))):
        try:
            trial.inject(call, error, first)
        except AssertionError as failure:
            failures.append(str(failure))
    assert not failures, f"{len(failures)} failures\n" + "\n\n".join(failures)
