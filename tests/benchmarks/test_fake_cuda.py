"""The check of hdit on a CUDA device that is not there; it needs a CUDA build of torch, which the tests do not have."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.fake_cuda import lines

ROOT = Path(__file__).parents[2]


def call(*arguments):
    command = [sys.executable, "-m", "benchmarks.fake_cuda", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_mistakes_problems_and_unchecked_activities_are_failures():
    good = {
        "activity": "train",
        "recipe": "a",
        "problem": None,
        "mistakes": {},
        "waits": {"b:1: item": 2},
        "operations": 9,
    }
    assert list(lines(good)) == ["train, a: 9 operations, ok", "  waits: b:1: item (2 times)"]
    for worse in ({"mistakes": {"c:1: float64": 1}}, {"problem": "RuntimeError: why"}, {"operations": 0}):
        assert next(lines(good | worse)).endswith("FAILED")


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is a CUDA build")
def test_a_cpu_build_of_torch_is_refused():
    done = call("--only", "score")
    assert done.returncode == 2
    assert "this torch is a CPU build" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is a CPU build")
def test_a_training_step_sampling_and_scoring_are_on_one_device_without_float64():
    done = call()
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
