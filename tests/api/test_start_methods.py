"""Scripts with worker processes, started as Linux does from Python 3.14 on, and as macOS and Windows do."""

import os
import subprocess
import sys

import pytest

from hdit_core.recipe.write import recipe_toml

SCRIPT = """
import multiprocessing
from hdit_core import api
{guard}
    multiprocessing.set_start_method({method!r}, force=True)
    summary = api.prepare_data({pictures!r}, "data", size=(16, 24), workers=2, progress=False)
    run = api.train("tiny.toml", "run", data="data", overrides={{"data.workers": 1}}, progress=False)
    from torch.utils.data import DataLoader
    loader = DataLoader(api.PreparedDataset("data"), batch_size=8, num_workers=1)
    print(summary.images, run.step, sum(len(images) for images, _ in loader))
"""
GUARD = 'if __name__ == "__main__":'


@pytest.fixture
def start(trained, tiny_data, tmp_path):
    """Return a function that runs the script and returns the ended process."""

    def run(guard, method):
        (tmp_path / "tiny.toml").write_text(recipe_toml(trained({"train.num_images": 16})))
        script = SCRIPT.format(guard=guard, method=method, pictures=str(tiny_data.parent / "pictures"))
        (tmp_path / "script.py").write_text(script)
        command = [sys.executable, "script.py"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_with_a_main_guard_prepares_trains_and_reads_with_worker_processes(start, method):
    done = start(GUARD, method)
    assert (done.returncode, done.stdout) == (0, "20 2 20\n"), done.stderr


def test_a_script_without_a_main_guard_is_refused_with_its_line_before_a_process_starts(start, tmp_path):
    done = start("if True:", "forkserver")
    assert done.returncode == 1 and not (tmp_path / "data").exists()
    assert done.stderr.splitlines()[-1].endswith(
        "script.py:6: with workers = 2 and the start method 'spawn' of multiprocessing, worker processes import this "
        f"script again; put the call under {GUARD}, or use no worker processes (workers = 1)"
    )
