"""Settings of the machine before computations."""

import platform
import subprocess
import sys

import pytest
import torch

from hdit_core.checkpoint.denoiser import setup_notes
from hdit_core.devices import compute_dtype, pick_device, precision_of, require_float64
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import UsageError
from hdit_core.evaluate.extractors.extractor import Extractor, full_precision, open_extractor
from hdit_core.model.hourglass import HourglassTransformer

PAGES = """
import ctypes, resource, sys, torch
from hdit_core.devices import tune_malloc
assert sys.argv[1] == "plain" or tune_malloc()
PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # pages of 4 KiB, whatever the machine would give
for _ in range(10):
    torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_reused():
    def new_pages(how):
        done = subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert new_pages("kept") < 1000 < new_pages("plain")


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert compute_dtype("auto", torch.device("cuda")) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert compute_dtype("auto", torch.device("cuda")) == torch.bfloat16


def test_a_gpu_that_is_named_becomes_the_current_one(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert [str(pick_device(name)) for name in ("cuda:1", "cuda", "cpu")] == ["cuda:1", "cuda", "cpu"]
    assert current == [1]


def test_apple_gpus_are_refused_where_float64_is_needed():
    require_float64(torch.device("cpu"), "the likelihood")
    with pytest.raises(UsageError, match=r"--device mps: the likelihood needs float64, .*; use --device cpu"):
        require_float64(torch.device("mps"), "the likelihood")


def test_the_precision_on_a_gpu_is_described():
    assert precision_of(torch.device("cuda", 1), torch.float32) == "float32 without TF32"
    mixed = precision_of(torch.device("cuda"), torch.bfloat16)
    assert mixed == "bfloat16 for matrix products, otherwise float32 without TF32"
    assert precision_of(torch.device("cpu"), torch.bfloat16) is None


def test_sampling_and_scoring_state_their_precision_on_a_gpu(monkeypatch, caplog, tiny_recipe):
    caplog.set_level("INFO", "hdit")
    gpu = torch.device("cuda")
    monkeypatch.setattr("hdit_core.checkpoint.denoiser._device_and_dtype", lambda _: (gpu, torch.bfloat16))
    monkeypatch.setattr("hdit_core.checkpoint.denoiser.selected_backends", lambda *_: [])
    denoiser = Denoiser(HourglassTransformer(tiny_recipe.model), tiny_recipe)
    assert setup_notes(denoiser) == ["precision: bfloat16 for matrix products, otherwise float32 without TF32"]
    on_gpu = Extractor("mine", "fd-mine", "kd-mine", 5, 8, 4, "0" * 64, torch.nn.Identity(), gpu)
    monkeypatch.setattr("hdit_core.evaluate.extractors.extractor._find", lambda name: lambda *_: on_gpu)
    assert open_extractor("mine", device=gpu) is on_gpu
    assert "extractor mine: float32 without TF32, deterministic convolutions" in caplog.text


def test_features_are_computed_without_tf32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)
