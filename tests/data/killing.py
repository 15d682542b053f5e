"""Processes that die: at a chosen file operation, or at a random moment."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CODE = (
    "import sys; from pathlib import Path; from hdit_core.data.prepare.run import *\n"
    "from hdit_core.data.prepare.array_task import parse_array_task\n"
    "if __name__ == '__main__':\n"
    "    source, out, share, workers, shard_size, drop = sys.argv[1:]\n"
    "    settings = PrepareSettings(source, Path(out), (8, 12), shard_size=int(shard_size), workers=int(workers),"
    " drop_duplicates=drop == 'drop')\n"
    "    run = {'all': prepare_data, 'finish': finish_data}.get(share)\n"
    "    run(settings) if run else prepare_task(settings, parse_array_task(share))\n"
)


def die_at(step, run):
    """Run in a child that dies before its n-th file operation of the kind that must not be torn; did it?"""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(real):
            def call(*args, **options):
                nonlocal count
                count += 1
                if count == step:
                    os._exit(9)
                return real(*args, **options)

            return call

        os.fsync, Path.replace, os.rmdir = counted(os.fsync), counted(Path.replace), counted(os.rmdir)
        Path.unlink = counted(Path.unlink)
        try:
            run()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def begin(folder, source, out, share="all", *, workers=1, shard_size=7, drop=False):
    """Start a preparation in a separate process; its exit code and errors are written to `folder`."""
    folder.mkdir(exist_ok=True)
    if not (folder / "run.py").exists():
        (folder / "run.py").write_text(CODE)
    arguments = [source, out, share, workers, shard_size, "drop" if drop else "keep"]
    command = [sys.executable, str(folder / "run.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with (folder / "stderr").open("a") as complaints:
        return subprocess.Popen(command, cwd=folder, env=environment, stderr=complaints)


def kill_after(process, delay_s):
    """Kill a process after a time, unless it has ended; return its exit code."""
    deadline = time.monotonic() + delay_s
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    return process.wait()


KILLED = -signal.SIGKILL
