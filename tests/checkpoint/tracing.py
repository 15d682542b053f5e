"""A forked process under strace: what it changes on the disk, call by call, and killed or refused at any of them."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

import pytest

from hdit_core.errors import CheckpointError

CHANGES = (
    *("openat", "write", "pwrite64", "writev", "ftruncate", "fallocate", "chmod", "fchmod", "fchmodat"),
    *("fsync", "fdatasync", "sync_file_range", "link", "linkat", "symlink", "symlinkat"),
    *("rename", "renameat", "renameat2", "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir"),
)
"""The calls that change files. Other machines lack some; strace passes over those with a question mark before them."""

DONE, REFUSED, ANOTHER_ERROR, KILLED = 0, 4, 1, -9
LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(.*)")


@dataclass(frozen=True)
class Call:
    """One call of the kind that changes files; the `number`-th of its name in its thread."""

    thread: int
    name: str
    number: int
    arguments: str


def can_trace():
    """Return the reason why strace cannot trace a process here, or an empty string if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()[:100]}"


needs_strace = pytest.mark.skipif(bool(can_trace()), reason=can_trace())


def run_traced(act, log, inject=""):
    """Run `act` in a forked process under strace.

    Args:
        log: the file for strace's lines.
        inject: what is to befall which call, as strace takes it: `fsync:error=EIO:when=3`.

    Returns:
        Its exit code: DONE, REFUSED (it raised a CheckpointError), ANOTHER_ERROR, or KILLED.
    """
    begin, release = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(begin, 1)
        os._exit(_outcome(act))
    names = ",".join(f"?{name}" for name in CHANGES)
    injecting = ["-e", f"inject={inject}"] if inject else []
    command = ["strace", "-f", "-y", "-p", str(child), "-o", str(log), "-e", f"trace={names}", *injecting]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert "attached" in strace.stderr.readline()
        os.write(release, b"go")
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for end in (begin, release):
        os.close(end)
    return code


def _outcome(act):
    try:
        act()
    except CheckpointError:
        return REFUSED
    except BaseException:
        return ANOTHER_ERROR
    return DONE


def changes(log):
    """Return the calls of a trace that changed files."""
    counts, found = {}, []
    for line in log.read_text().splitlines():
        if (match := LINE.match(line)) is None:
            continue
        thread, name, arguments, failed = int(match[1]), match[2], match[3], match[4].startswith("-")
        counts[thread, name] = counts.get((thread, name), 0) + 1
        if not failed and (name != "openat" or "O_CREAT" in arguments):
            found.append(Call(thread, name, counts[thread, name], arguments))
    return found
