"""Whatever a system call fails with, a command says it in one line with a path, and works again once it is over."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdit_core.recipe.write import recipe_toml
from hdit_core.train.run import train

HERE = Path(__file__).parent
COMPILER = shutil.which("cc") or shutil.which("gcc")
pytestmark = pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="needs Linux and a C compiler")

CODES = {1, 2, 3, 4, 75}
FAST = {"open": "EACCES", "read": "EISDIR", "write": "ENOSPC", "fsync": "EIO", "rename": "EROFS", "stat": "EACCES"}
NAMES = ("EACCES", "ENOSPC", "EIO", "EROFS", "EDQUOT", "EMFILE", "ESTALE", "ENAMETOOLONG", "ENOENT", "EINTR", "EPERM")
CALLS = (*FAST, "mkdir")

COMMANDS = {
    "prepare-data": "prepare-data {work}/in/pictures --out {work}/out/data --size 16x24 --workers 1",
    "data show": "data show {work}/in/data",
    "data verify": "data verify {work}/in/data",
    "train": "train {work}/in/tiny.toml --out {work}/out/run --device cpu",
    "resume": "train --resume {work}/in/run --set train.num_images=32 --device cpu",
    "sample": "sample --ckpt {work}/in/run --count 3 --steps 2 --out {work}/out/samples --device cpu",
    "sample tar": "sample --ckpt {work}/in/run --count 3 --steps 2 --out {work}/out/samples.tar --device cpu",
    "edit": "edit vary --init {work}/in/pictures/a/0.png --ckpt {work}/in/run --count 1 --steps 2 --device cpu "
    "--out {work}/out/edits",
    "export": "export {work}/in/run --to {work}/out/exported --device cpu",
    "convert": "convert {work}/in/run {work}/out/converted.safetensors",
    "ema": "ema --std 0.2 {work}/in/run --out {work}/out/ema.safetensors",
    "runs show": "runs show {work}/in/run",
    "runs list": "runs list {work}/in",
    "eval-fid": "eval-fid {work}/in/pictures --ref {work}/in/data --extractor efficientnet-lite0 --allow-small-n "
    "--device cpu",
    "plan": "plan {work}/in/tiny.toml --gpu h100",
    "recipe": "recipe copy {work}/in/tiny.toml {work}/out/copy.toml",
}


class Server:
    """Runs commands in a process whose system calls can be made to fail."""

    def __init__(self, shim):
        environment = {
            **os.environ,
            "LD_PRELOAD": str(shim),
            "PYTHONPATH": str(HERE.parents[2]),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(HERE / "server.py")]
        self._process = subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True, bufsize=1)

    def run(self, arguments, work, call="", error=0, first=1, last=1 << 30):
        """Return the exit code, what was printed, and the number of calls of that kind."""
        said = work.parent / "said"
        job = [arguments, [call, error, str(work), first, last], str(said)]
        self._process.stdin.write(json.dumps(job) + "\n")
        code, seen = json.loads(self._process.stdout.readline())
        return code, said.read_text(), seen

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    shim = tmp_path_factory.mktemp("shim") / "shim.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", str(HERE / "shim.c"), "-o", str(shim), "-ldl"], check=True)
    server = Server(shim)
    yield server
    server.close()


@pytest.fixture
def work(tmp_path, trained, tiny_data):
    """Return a folder with pictures, a data set, a recipe and a run in `in`, and an empty `out`."""
    folder = tmp_path / "work"
    numbers = np.random.default_rng(0)
    for index in range(4):
        picture = folder / "in" / "pictures" / "ab"[index % 2] / f"{index}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (20, 30, 3), np.uint8)).save(picture)
    (folder / "out").mkdir()
    shutil.copytree(tiny_data, folder / "in" / "data")
    values = {"data.path": str(folder / "in" / "data"), "train.num_images": 16, "train.ema_profiles": [0.1, 0.2]}
    recipe = trained(values | {"train.ema_snapshot_every_images": 8})
    (folder / "in" / "tiny.toml").write_text(recipe_toml(recipe))
    train(recipe, folder / "in" / "run")
    return folder


def check(server, work, command, call, name, first, last):
    """Run a command with a fault, and look at what it says."""
    where = f"{command}: {call} {name} {first}"
    code, said, _ = server.run(command, work, call, getattr(errno, name), first, last)
    assert "Traceback" not in said, f"{where}\n{said[-3000:]}"
    if code:
        assert code in CODES, f"{where}: exit {code}\n{said[-2000:]}"
        line = said.splitlines()[-1]
        assert re.match(r"hdit: (error|stopped early): .", line), f"{where}\n{said[-2000:]}"
        assert str(work) in line, f"{where}: no path\n{said[-2000:]}"
    return code


def check_command(server, work, name, errors):
    """Let calls of each kind fail, in copies of the folder, and run the command again without the fault."""
    arguments = COMMANDS[name]
    for call, number_names in errors.items():
        shutil.copytree(work, work.parent / "count")
        count = work.parent / "count"
        code, said, seen = server.run(arguments.format(work=count).split(), count, call, 0, 1 << 30)
        shutil.rmtree(count)
        assert code == 0 and "Traceback" not in said, f"{name}\n{said[-2000:]}"
        for number_name in number_names if seen else ():
            for first in sorted({1, 1 + seen // 2, seen} if len(number_names) > 1 else {1 + seen // 2}):
                copy = work.parent / "copy"
                shutil.copytree(work, copy)
                command = arguments.format(work=copy).split()
                check(server, copy, command, call, number_name, first, first)
                code, said, _ = server.run(command, copy)
                is_whole = re.search("already exists and is never replaced|exists; choose", said)  # a fault at the end
                assert code == 0 or is_whole, f"{name}: rerun after {call} {number_name} {first}\n{said[-2000:]}"
                shutil.rmtree(copy)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("edit", "eval-fid", "sample tar")])
def test_a_system_call_that_fails_is_one_line_with_the_path_and_the_command_works_afterwards(server, work, name):
    check_command(server, work, name, {call: [error] for call, error in FAST.items()})
