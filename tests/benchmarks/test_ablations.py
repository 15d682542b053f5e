"""The harness of the ablations on a tiny job list: it resumes, runs nothing twice, and reports every row."""

import contextlib
import importlib
import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.model.hourglass import HourglassTransformer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROWS = ["plain", "hourglass", "hourglass, snr"]

LIST = """
title = "Tiny"
train_data = "{data}"
held_out = "{data}"
baseline = "hourglass"
seeds = [0, 1]
num_samples = 24
num_held_out = 4
sigmas = [0.2, 2.0]

[sets.all]
"model.image_size" = 32
"model.channels" = 3
"model.num_classes" = 0
"model.mapping_width" = 32
"data.workers" = 0
"train.num_images" = 128
"train.batch_size" = 8
"train.log_every_images" = 16
"train.checkpoint_every_images" = 16
"train.sample_every_images" = 0
"sample.steps" = 2
"sample.guidance" = 1.0
"sample.batch_size" = 8
"model.levels" = [
    {{ depth = 1, width = 32, head_dim = 16, attention = "neighborhood", kernel_size = 3 }},
    {{ depth = 1, width = 32, head_dim = 16, attention = "global" }},
]

[[row]]
name = "plain"
recipe = "mnist32"
use = ["plain"]

[[row]]
name = "hourglass"
recipe = "mnist32"

[[row]]
name = "hourglass, snr"
recipe = "mnist32"
set = {{ "diffusion.weighting" = "snr" }}

[sets.plain]
"model.levels" = [{{ depth = 2, width = 32, head_dim = 16, attention = "global" }}]
"""


@pytest.fixture(scope="module")
def job_list(tmp_path_factory):
    folder, numbers = tmp_path_factory.mktemp("jobs"), np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for index in range(24):
        Image.fromarray(numbers.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "pictures" / f"{index}.png")
    prepare_data(PrepareSettings(str(folder / "pictures"), folder / "data", (32, 32)))
    (folder / "tiny.toml").write_text(LIST.format(data=folder / "data"))
    return folder / "tiny.toml"


@dataclass
class Done:
    """What a command printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


def arguments(action, job_list, out, *options):
    return [action, str(job_list), "--out", str(out), *options]


def script():
    """Return the script as a module of this process, which has imported torch already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("ablations")


def run(*words):
    """Run the script's command."""
    ablations = script()
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            ablations.main(arguments(*words))
        except SystemExit as stop:
            code = stop.code
    return Done(code, out.getvalue(), err.getvalue())


def results(out):
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def numbers(records):
    """Return what does not depend on the time that a job took."""
    return {(each["row"], each["seed"]): (each["value"], each["held_out"], each["num_images"]) for each in records}


@pytest.fixture(scope="module")
def finished(job_list, tmp_path_factory):
    """Return the folder of a list that was killed in its first job, continued for one job, and run to its end."""
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, "benchmarks/ablations.py", *arguments("run", job_list, out)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while not list(out.glob("*/checkpoints/step-*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    assert results(out) == []
    done = run("run", job_list, out, "--at-most", "1")
    assert done.returncode == 0, done.stderr
    assert len(results(out)) == 1
    done = run("run", job_list, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_every_row_has_a_line_for_each_seed_and_all_rows_come_before_the_next_seed(finished):
    assert [(each["row"], each["seed"]) for each in results(finished)] == [(row, s) for s in (0, 1) for row in ROWS]
    for each in results(finished):
        assert each["value"] > 0 and each["train_cpu_s"] > 0 and list(each["held_out"]) == ["0.2", "2"]
    first, second = (record["macs"] for record in results(finished)[:2])
    assert first != second


def test_a_killed_job_resumes_with_the_numbers_of_an_uninterrupted_one(finished, job_list, tmp_path):
    done = run("run", job_list, tmp_path, "--at-most", "1")
    assert done.returncode == 0, done.stderr
    assert numbers(results(tmp_path)).items() <= numbers(results(finished)).items()


def test_a_finished_list_runs_nothing_and_a_changed_row_runs_again(finished, job_list, tmp_path):
    before = results(finished)
    assert run("run", job_list, finished).stderr == ""
    assert results(finished) == before
    changed = tmp_path / "changed.toml"
    changed.write_text(job_list.read_text().replace('"diffusion.weighting" = "snr"', '"train.lr" = 1e-4'))
    assert "1 of 1: hourglass, snr, seed 0" in run("run", changed, finished, "--at-most", "1").stderr
    table = run("report", job_list, finished).stdout
    assert "| hourglass, snr | 2 |" in table  # the result of the changed row is not among its own


def test_the_report_has_a_line_for_each_row_and_a_plot(finished, job_list, tmp_path):
    done = run("report", job_list, finished, "--plot", str(tmp_path / "plot.png"))
    rows = [line.split(" | ")[0].removeprefix("| ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows == ["row", "---", *ROWS]
    assert "fd-efficientnet-lite0-24" in done.stdout and "(hourglass)" in done.stdout
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.size == (1800, 760)


def test_techniques_change_what_is_learned_and_end_with_their_row(job_list, tmp_path):
    head, _, _ = job_list.read_text().replace("num_samples = 24", "num_samples = 0").partition("[[row]]")
    tried = ["none", "registers", "routing"]
    rows = [f'[[row]]\nname = "{name}"\nrecipe = "mnist32"\ntechnique = "{name}"\n' for name in tried]
    for old, new in (("[0, 1]", "[0]"), ('"hourglass"', '"none"'), ("depth = 1", "depth = 3")):
        head = head.replace(old, new)
    (tmp_path / "techniques.toml").write_text(head + "\n".join(rows))
    before = dict(vars(HourglassTransformer))
    done = run("run", tmp_path / "techniques.toml", tmp_path)
    assert done.returncode == 0, done.stderr
    assert dict(vars(HourglassTransformer)) == before
    losses = {each["row"]: each["held_out"]["0.2"] for each in results(tmp_path)}
    assert list(losses) == tried and len(set(losses.values())) == 3


def test_a_row_with_unknown_overrides_is_refused(job_list, tmp_path):
    (tmp_path / "bad.toml").write_text(job_list.read_text().replace('use = ["plain"]', 'use = ["plane"]'))
    done = run("run", tmp_path / "bad.toml", tmp_path)
    assert done.returncode == 2
    assert "row plain: there are no overrides 'plane' in [sets]; expected all, plain" in done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "jobs").glob("*.toml")), ids=lambda path: path.stem)
def test_each_built_in_list_has_distinct_valid_recipes_and_known_baselines(path):
    listed, jobs = script().read_jobs(path)
    assert len({job.key for job in jobs}) == len(jobs) == len(listed.row) * len(listed.seeds)
    assert {job.baseline for job in jobs} <= {job.row for job in jobs}
