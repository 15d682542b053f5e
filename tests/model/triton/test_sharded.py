"""The Triton operator in a layer whose weights are sharded over ranks (FSDP2), with kernels in Triton's interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import torch

from tests.model.neighborhoods import brute_force
from tests.model.triton.sharded_child import Layer, images
from tests.ports import take_port
from tests.train.ranks import torchrun

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_sharded_weights_get_the_mean_gradient_of_the_ranks():
    command, port = [sys.executable, "-m", "tests.model.triton.sharded_child"], take_port()
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    ranks = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment | torchrun(rank, 2, port), stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=600)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]

    plain = Layer(brute_force)
    for rank in range(2):
        (plain(images(rank)).square().sum() / 2).backward()
    for found in map(json.loads, printed):
        for name, parameter in plain.named_parameters():
            torch.testing.assert_close(torch.tensor(found[name]), parameter.grad, rtol=1e-4, atol=1e-5)
