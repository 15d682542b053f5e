"""A process that has everything imported already and forks one that trains, a second's time each: for killing it.

As a program it reads jobs from its standard input, one JSON line each, and answers twice: with the id of the process
it forked, and with its exit code when that is gone.
"""

import json
import os
import select
import subprocess
import sys
import time
import traceback
from pathlib import Path

SLOWLY_S = 0.02  # before each file of a checkpoint, so that kills fall between and into them


class Nursery:
    """The test's end."""

    def __init__(self, stderr):
        self.stderr = stderr
        command, root = [sys.executable, str(Path(__file__))], Path(__file__).parents[2]
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        with stderr.open("a") as complaints:
            self._process = subprocess.Popen(
                command, env=environment, stdin=-1, stdout=-1, stderr=complaints, bufsize=0
            )

    def begin(self, recipe_file, run, writer="ours"):
        """Fork a process that trains, the first of a group of its own, and return its id."""
        self._process.stdin.write(json.dumps([str(recipe_file), str(run), writer]).encode() + b"\n")
        return int(self._process.stdout.readline())

    def wait(self, timeout_s=None):
        """Return the exit code of the process forked last, or None while it is running."""
        gone, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        return int(self._process.stdout.readline()) if gone else None

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)


def write_in_place(run, recipe, state, parts):
    """The control: a writer as many are, which writes the new checkpoint over the old one."""
    from hdit_core.checkpoint import save
    from hdit_core.checkpoint.layout import checkpoint_folder

    folder = checkpoint_folder(run, 1)
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder.with_name(".tmp-in-place")  # as there is one while ours is written
    mark.touch()
    save._write(folder, recipe, state, parts)
    mark.unlink()
    return folder


def train_one(recipe_file, run, writer):
    """Train, with checkpoints written by ours or by the control, both of them slowly."""
    from hdit_core.checkpoint import save
    from hdit_core.recipe.read import read_recipe
    from hdit_core.train import async_checkpoint as saving
    from hdit_core.train.run import train

    write_tensors = save.write_tensors

    def write_slowly(*args):
        time.sleep(SLOWLY_S)
        return write_tensors(*args)

    save.write_tensors = write_slowly
    if writer == "in place":
        saving.save_checkpoint = write_in_place
    train(read_recipe(recipe_file), Path(run))


def main():
    import torch

    import hdit_core.train.run  # noqa: F401 (imported once, for all who are forked)

    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.setsid()
            code = 1
            try:
                train_one(*json.loads(line))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
