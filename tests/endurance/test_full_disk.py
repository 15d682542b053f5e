"""Each command that writes, on disks of every size that is too small: a real tmpfs, which needs root."""

import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tests.cli.faults.commands import WRITERS
from tests.cli.faults.conftest import server, work
from tests.cli.faults.injection import COMPILER, Trial, files_of, taken_bytes

__all__ = ["server", "work"]  # fixtures
pytestmark = pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="needs Linux and a C compiler")

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.98)


@contextmanager
def small_disk(folder, size_bytes):
    """Mount a tmpfs at a folder while the body runs; yield a function that gives it more room."""

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, text=True)

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if (tried := mount(f"size={size_bytes}")).returncode:
        pytest.skip(f"no tmpfs can be mounted here: {tried.stderr.strip()}")
    try:
        yield lambda: mount("remount,size=1g")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_with_more_room_the_command_works(server, work, name):
    trial, full, failures = Trial(server, work, name), 0, []
    needed = trial.taken_bytes - taken_bytes(work)
    for share in SHARES:
        with small_disk(trial.copy, taken_bytes(work) + int(share * needed) // 4096 * 4096) as more_room:
            shutil.copytree(work, trial.copy, dirs_exist_ok=True)
            before, where = files_of(trial.copy), f"{name}: {share:.0%} of the room"
            ended = server.run(name, trial.copy)
            try:
                trial.check_ended(ended, where, before)
                if ended.code:
                    full += 1
                    assert ended.code == 1, f"{where}: exit {ended.code}\n{ended.stderr}"
                    more_room()
                    trial.check_rerun(where)
            except AssertionError as failure:
                failures.append(str(failure))
    assert not failures, f"{len(failures)} failures\n" + "\n\n".join(failures)
    assert full, f"{name}: no disk was too small"
