"""The self-test of a backend before its first use, with the kernels in Triton's interpreter."""

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import torch

from hdit_core.model.attention.interface import KernelTarget
from hdit_core.model.attention.self_test import self_test
from hdit_core.model.attention.triton import attend
from hdit_core.model.triton import launch

HERE = KernelTarget(torch.device("cpu"), torch.bfloat16, 16)


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
def test_the_kernels_pass_the_self_test():
    assert self_test(attend, HERE) is None


@pytest.mark.usefixtures("interpreted")
def test_kernels_with_a_wrong_window_fail_the_self_test(monkeypatch):
    monkeypatch.setattr(launch.kernels, "window_start", launch.kernels.first_query)
    assert "self-test" in self_test(attend, HERE)
