"""Settings of the machine before computations."""

import platform
import subprocess
import sys

import pytest

PAGES = """
import ctypes, resource, sys, torch
from hdit_core.devices import tune_malloc
assert sys.argv[1] == "plain" or tune_malloc()
PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # pages of 4 KiB, whatever the machine would give
for _ in range(10):
    torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_reused():
    def new_pages(how):
        done = subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert new_pages("kept") < 1000 < new_pages("plain")
