"""Memory limits of the system and of this process."""

import os
import resource
import sys

import pytest

from hdit_core import system_memory
from hdit_core.system_memory import free_bytes, memory_limit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def test_free_memory_is_at_most_that_of_the_machine():
    assert 0 < free_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("group", "ulimit", "lowest"),
    [
        ("max\n", resource.RLIM_INFINITY, None),
        ("9223372036854771712\n", resource.RLIM_INFINITY, None),
        ("2000000000\n", resource.RLIM_INFINITY, 2 * 10**9),
        ("2000000000\n", 10**9, 10**9),
        ("max\n", 10**9, 10**9),
    ],
)
def test_the_lowest_of_the_groups_limit_and_ulimit_counts(monkeypatch, tmp_path, group, ulimit, lowest):
    (tmp_path / "memory.max").write_text(group)
    monkeypatch.setattr(system_memory, "GROUP_LIMITS", (str(tmp_path / "none"), str(tmp_path / "memory.max")))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (ulimit, resource.RLIM_INFINITY))
    assert memory_limit() == lowest
