"""A scheduler signals all processes of a job: only the main process of a preparation heeds it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
import os, signal, sys
from hdit_core.data.prepare.convert import convert_all
from hdit_core.data.prepare.transform import InputImage, TransformSettings

def tasks():
    for number in range(60):
        yield InputImage(number, f"{number}.png", -1, None, b"no image")

if __name__ == "__main__":
    number = getattr(signal, sys.argv[1])
    signal.signal(number, lambda *_: None)
    results = convert_all(tasks(), TransformSettings(8, 12, 3, "center", "png", (0, 0, 0), 0), 2)
    next(results)
    os.killpg(0, number)
    print(1 + sum(1 for _ in results))
"""


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGHUP"])
def test_a_signal_to_all_processes_kills_neither_workers_nor_the_resource_tracker(tmp_path, name):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, start_new_session=True, timeout=240)
    assert (done.stdout, done.stderr, done.returncode) == ("60\n", "", 0)
