"""Runs a command with system calls that fail, and checks what it says, what it leaves, and what a rerun makes of it."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hdit_core.data.format.retry_reads import is_storage_error
from tests.cli.faults.commands import COMMANDS
from tests.compiled import share_compiled

HERE = Path(__file__).parent
COMPILER = shutil.which("cc") or shutil.which("gcc")
CODES = {1, 2, 3, 4, 75}
LEFT_OUT = re.compile(
    "^hdit: left out 1 file; reasons: |could not restore 1 input; |, corrupt: .*: cannot be read", re.MULTILINE
)
ALREADY = re.compile("already exists and is never replaced|exists; choose")  # a fault after the last rename


@dataclass
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    calls: dict  # by kind


class Server:
    """Runs commands in a process whose system calls can be made to fail."""

    def __init__(self, folder):
        """Compile the shim in a folder, and start the process there."""
        self._said = folder / "said"
        shim = folder / "shim.so"
        subprocess.run([COMPILER, "-shared", "-fPIC", str(HERE / "shim.c"), "-o", str(shim), "-ldl"], check=True)
        environment = os.environ | {"LD_PRELOAD": str(shim), "PYTHONPATH": str(HERE.parents[2])}
        environment |= {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
        share_compiled(folder / "cache")
        command = [sys.executable, str(HERE / "server.py")]
        self._process = subprocess.Popen(
            command, env=environment, stdin=-1, stdout=-1, text=True, bufsize=1, cwd=folder
        )

    def run(self, name, work, call="", error=0, first=1, last=1 << 30):
        """Run a command of the table on a folder, while calls `first` to `last` of a kind fail there."""
        arguments = COMMANDS[name].format(work=work).split()
        job = [arguments, [call, error, str(work), first, last], str(self._said)]
        self._process.stdin.write(json.dumps(job) + "\n")
        code, calls = json.loads(self._process.stdout.readline())
        stdout = self._said.with_name("said.out").read_text(errors="replace")
        return Ended(code, stdout, self._said.read_text(errors="replace"), calls)

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)


def files_of(folder):
    """Return the content of each file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def taken_bytes(folder):
    """Return the room that a folder takes on a disk with pages of 4096 bytes."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


class Trial:
    """A command on copies of a folder, all at the same path; what two runs without faults agree on is expected."""

    def __init__(self, server, work, name):
        """Run the command without faults, twice."""
        self.server, self.work, self.name, self.copy = server, work, name, work.parent / "copy"
        runs = [self._clean() for _ in range(2)]
        self.taken_bytes = taken_bytes(self.copy)
        self.calls, self.noise = runs[0][0].calls, {line for run, _ in runs for line in run.stderr.splitlines()}
        lines = [Counter(run.stdout.splitlines()) for run, _ in runs]
        self.lines, files = lines[0] & lines[1], [files for _, files in runs]
        self.files = {path: content for path, content in files[0].items() if files[1].get(path) == content}
        self.files = {path: content for path, content in self.files.items() if not path.endswith(".html")}  # has a date
        self.names = set(files[0]) | set(files[1])

    def _clean(self):
        self.renew()
        ended = self.server.run(self.name, self.copy)
        assert ended.code == 0 and "Traceback" not in ended.stderr, f"{self.name}\n{ended.stderr[-2000:]}"
        return ended, files_of(self.copy)

    def renew(self):
        """Make the copy anew."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.work, self.copy, symlinks=True)

    def inject(self, call, error, first, last=None):
        """Let calls fail in a new copy: an error is one line with a path; the command then works without the fault."""
        where = f"{self.name}: {call} {error} {first}"
        self.renew()
        before = files_of(self.copy)
        number = getattr(errno, error)
        ended = self.server.run(self.name, self.copy, call, number, first, last or first)
        if LEFT_OUT.search(ended.stderr + ended.stdout) and not is_storage_error(OSError(number, "")):
            self._check_messages(ended, where)  # a file is listed with its reason, and the others are used
            return ended
        self.check_ended(ended, where, before)
        if ended.code and files_of(self.copy) != before:
            self.check_rerun(where)
        return ended

    def check_ended(self, ended, where, before):
        """Check the line and the code of an error, or the results without one, and that no file is half written."""
        self._check_messages(ended, where)
        if ended.code == 0:
            self._check_results(ended, where)
        files = files_of(self.copy)
        wrong = [path for path in self.files if path in files and not self._is_whole(path, files[path], before)]
        assert not wrong, f"{where}: half written: {wrong}\n{ended.stderr[-1000:]}"

    def _is_whole(self, path, content, before):
        """Return whether a file is the old one, that of a command without faults, or a record of an unfinished one."""
        if content in (self.files[path], before.get(path)):
            return True
        parts = [content] if path.endswith(".json") else content.splitlines() if path.endswith(".jsonl") else [b""]
        return all(part.startswith(b"{") and json.loads(part) for part in parts)

    def check_rerun(self, where):
        """Run the command again without faults: its results are those of a run that had none."""
        again = self.server.run(self.name, self.copy)
        assert again.code == 0 or ALREADY.search(again.stderr), f"rerun after {where}\n{again.stderr[-2000:]}"
        self._check_files(f"rerun after {where}")

    def _check_messages(self, ended, where):
        assert ended.code != -1, f"{where}: died, or took too long\n{ended.stderr[-5000:]}"
        assert "Traceback" not in ended.stderr, f"{where}\n{ended.stderr[-3000:]}"
        new = [line for line in ended.stderr.splitlines() if line not in self.noise]
        assert all(line.startswith("hdit: ") for line in new), f"{where}\n{ended.stderr[-3000:]}"
        if ended.code:
            assert ended.code in CODES, f"{where}: exit {ended.code}\n{ended.stderr[-2000:]}"
            assert ended.stderr, f"{where}: exit {ended.code} in silence"
            line = ended.stderr.splitlines()[-1]
            assert re.match(r"hdit: (error|stopped early): .", line), f"{where}\n{ended.stderr[-2000:]}"
            assert str(self.copy) in line, f"{where}: no path\n{ended.stderr[-2000:]}"

    def _check_results(self, ended, where):
        """Check what a command printed that succeeded in spite of a fault, and the files that it left."""
        missing = self.lines - Counter(ended.stdout.splitlines())
        assert not missing, f"{where}: exit 0 without {list(missing)[:5]}\n{ended.stdout}\n{ended.stderr[-2000:]}"
        without = {name for name in self.names if f"{self.copy / name}: no image grid: " in ended.stderr}  # a remark
        self._check_files(f"{where}: exit 0\n{ended.stderr[-1000:]}", without)

    def _check_files(self, where, without=frozenset()):
        files = files_of(self.copy)
        unlike = sorted(path for path in self.names - without if path not in files)
        unlike += sorted(path for path in self.files if path in files and files[path] != self.files[path])
        unlike += sorted(path for path in files if ".tmp-" in path and path not in self.names)
        assert not unlike, f"{where}: {unlike[:8]}"
