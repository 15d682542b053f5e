"""On a CPU an image is bit-identical in every batch and for any number of threads."""

import json
import os
import subprocess
import sys

import pytest

# every kind of sampler, and every option that changes what a network is asked
KINDS = [
    ("neighborhood", {"sampler": "dpmpp_3m_sde", "steps": 3}),
    ("windows", {"sampler": "unipc", "steps": 4, "sigma_max": 40.0}),
    ("windows", {"sampler": "heun", "steps": 2, "churn": {"amount": 1.0}}),
    ("neighborhood", {"sampler": "dpmpp_2m", "steps": 2, "guidance_batched": False}),
    ("windows", {"sampler": "dpm_adaptive", "sigma_min": 0.5, "sigma_max": 1.5}),
]


@pytest.mark.slow
def test_guided_edits_are_bit_identical_in_any_batch_and_on_any_number_of_threads():
    quick = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    environment = {key: value for key, value in os.environ.items() if key != "MKL_CBWR"} | quick
    command = [sys.executable, "-m", "tests.generate.bits_child", json.dumps(KINDS)]
    child = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert child.stdout.splitlines() == []
