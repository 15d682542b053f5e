"""Each errno in the first, the middle and the last call of each kind, for each command."""

import pytest

from tests.cli.faults.test_system_calls import CALLS, COMMANDS, NAMES, check_command, server, work

__all__ = ["server", "work"]  # fixtures


@pytest.mark.parametrize("name", COMMANDS)
def test_each_errno_is_one_line_with_the_path_and_the_command_works_afterwards(server, work, name):
    check_command(server, work, name, dict.fromkeys(CALLS, NAMES))
