"""The targets on which hdit's Triton kernels can run, the reasons why they cannot on others, and their self-test."""

import dataclasses
import sys
from types import ModuleType

import pytest
import torch

from hdit_core.model.attention import triton
from hdit_core.model.attention.interface import KernelTarget

GPU = KernelTarget(torch.device("cuda", 0), torch.bfloat16, 64)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of compute capability 9.0 with Triton 3.6, whose kernels pass the self-test."""
    module = ModuleType("triton")
    module.__version__ = "3.6.0"
    monkeypatch.setitem(sys.modules, "triton", module)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(triton, "self_test", lambda attend, place: None)
    return monkeypatch


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_the_kernels_run_for_every_dtype_and_head_dim_of_training(gpu, dtype, head_dim):
    place = dataclasses.replace(GPU, dtype=dtype, head_dim=head_dim)
    assert triton.unavailable(place) is None
    assert triton.describe(place) == "Triton 3.6.0 kernels of hdit (CUDA 9.0)"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (dataclasses.replace(GPU, dtype=torch.float64), "support float16, bfloat16 and float32, found float64"),
        (dataclasses.replace(GPU, head_dim=136), "the Triton kernels support head_dim up to 128, found 136"),
    ],
)
def test_unsupported_targets_are_reported_with_the_reason(gpu, place, message):
    assert message in triton.unavailable(place)


def test_older_gpus_are_refused_and_amd_gpus_are_not(gpu):
    gpu.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert triton.unavailable(GPU) == "the Triton kernels need compute capability 8.0 or later, found CUDA 7.5"
    gpu.setattr(torch.version, "hip", "7.0")
    assert triton.unavailable(GPU) is None


@pytest.mark.parametrize("version", ["3.5.1", "2.3.0", "3.5.0+git1234"])
def test_an_older_triton_is_refused(gpu, version):
    sys.modules["triton"].__version__ = version
    assert triton.unavailable(GPU) == f"Triton {version} is too old; 3.6 or later is needed"


def test_without_triton_the_reason_names_its_source(gpu):
    gpu.setitem(sys.modules, "triton", None)
    assert triton.unavailable(GPU) == "Triton is not installed; CUDA builds of torch include it on Linux"


def test_kernels_that_fail_the_self_test_are_unavailable(gpu):
    gpu.setattr(triton, "self_test", lambda attend, place: "fails its self-test: outputs are wrong")
    assert triton.unavailable(GPU) == "Triton 3.6.0 fails its self-test: outputs are wrong"
