"""The script of GPU benchmarks: stages are independent of each other, and all of them run on a CPU."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import typer

from benchmarks.gpu import digits
from benchmarks.gpu.stages import LIMIT_S, Outcome, Stage, gpu_stages, rehearsal, run, summarize
from hdit_cli.commands import bench

ROOT = Path(__file__).parents[2]


def python(code, limit_s=60.0):
    return Stage("stage", limit_s, [sys.executable, "-c", code])


def test_the_output_of_a_stage_is_recorded_as_json_or_as_text(tmp_path):
    outcome = run(python("print('{\"a\": 1}')"), tmp_path, 100)
    assert (outcome.code, outcome.problem) == (0, "")
    assert json.loads((tmp_path / "stage.json").read_text()) == {"a": 1}
    run(python("print('a table')"), tmp_path, 100)
    assert (tmp_path / "stage.txt").read_text() == "a table\n"


def test_a_failed_stage_keeps_its_output_and_the_reason(tmp_path):
    outcome = run(python("import sys; print('half'); print('why', file=sys.stderr); sys.exit(3)"), tmp_path, 100)
    assert (outcome.code, outcome.problem) == (3, "why")
    assert (tmp_path / "stage.txt").read_text() == "half\n"


def test_a_stage_that_takes_too_long_is_ended_with_its_children_and_keeps_its_output(tmp_path):
    code = "import subprocess, sys; print('begun', flush=True); subprocess.run(['sleep', '600'])"
    outcome = run(python(code, limit_s=5.0), tmp_path, 100)
    assert outcome.code is None and outcome.problem.startswith("ended after ")
    assert outcome.elapsed_s < 300
    assert (tmp_path / "stage.txt").read_text() == "begun\n"


def test_a_stage_without_enough_time_is_not_started(tmp_path):
    outcome = run(python("print(1)"), tmp_path, 3.0)
    assert (outcome.code, outcome.problem) == (None, "no time was left to begin")


def test_the_summary_has_the_result_of_each_stage(tmp_path):
    outcomes = [Outcome("good", 0, 1.0, ""), Outcome("bad", 2, 2.0, "why")]
    summarize(outcomes, tmp_path)
    assert [one["code"] for one in json.loads((tmp_path / "summary.json").read_text())] == [0, 2]
    lines = (tmp_path / "summary.txt").read_text().splitlines()
    assert lines[0].split() == ["good", "ok", "1.0", "s"]
    assert lines[1].split() == ["bad", "FAILED", "2.0", "s", "why"]


def test_the_most_important_stages_fit_into_the_time_whatever_the_others_take(tmp_path):
    limits_s = {stage.name: stage.limit_s for stage in gpu_stages(tmp_path)}
    assert LIMIT_S <= 9 * 60
    names = list(limits_s)
    assert sum(limits_s[name] for name in names[: names.index("mnist32") + 1]) <= LIMIT_S + 120
    assert sum(limits_s[name] for name in names[: names.index("profile") + 1]) <= LIMIT_S


def test_every_command_of_a_gpu_stage_has_options_that_exist(tmp_path):
    commands = typer.main.get_command(bench.app).commands
    for stage in gpu_stages(tmp_path):
        if "bench" in stage.command:
            name, *arguments = stage.command[stage.command.index("bench") + 1 :]
            commands[name].make_context(name, arguments)  # parses, and runs nothing


def test_samples_are_recognized_by_their_nearest_real_digits(tmp_path, monkeypatch):
    classes = np.repeat(np.arange(10), 5)
    pixels = np.eye(10)[classes]
    monkeypatch.setattr(digits, "real_digits", lambda folder: (pixels, classes))
    monkeypatch.setattr(digits, "samples", lambda folder: (pixels[:20:5] + 0.1, np.array([0, 1, 2, 9])))
    assert digits.recognized_percent(tmp_path, tmp_path) == {"samples": 75.0, "real digits": 100.0}


@pytest.mark.slow
def test_a_dry_run_runs_every_kind_of_stage(tmp_path):
    environment = os.environ | {"OUT": str(tmp_path / "out"), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = [ROOT / "benchmarks" / "gpu" / "run.sh", "--rehearse"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    kinds, names = ([stage.name for stage in stages(tmp_path)] for stages in (gpu_stages, rehearsal))
    assert {name.partition("-")[0] for name in kinds} == {name.partition("-")[0] for name in names}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.tar.gz", "summary.json", "summary.txt"}
    with tarfile.open(tmp_path / "out" / "results.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    for name in names:
        assert any((tmp_path / "results" / f"{name}.{ending}").stat().st_size > 2 for ending in ("json", "txt")
                   if (tmp_path / "results" / f"{name}.{ending}").exists()), name  # fmt: skip
    assert json.loads((tmp_path / "results" / "resume.json").read_text())["same_bits"]
