"""The selection of the backend of neighborhood attention, and the reason that is logged."""

import dataclasses
import subprocess
import sys
from types import ModuleType

import pytest
import torch

from hdit_core.errors import UsageError
from hdit_core.model.attention import flex, natten, tiled_pytorch, triton
from hdit_core.model.attention import native as native_backend
from hdit_core.model.attention.interface import KernelTarget
from hdit_core.model.attention.neighborhood_backends import BACKENDS, availability, select_backend, selected_backends
from hdit_core.model.attention.self_test import self_test
from hdit_core.recipe.model import ModelRecipe

CPU = KernelTarget(torch.device("cpu"), torch.float32, 64)
GPU = KernelTarget(torch.device("cuda", 0), torch.bfloat16, 64)


@pytest.fixture(autouse=True)
def _clear_cached_choices():
    select_backend.cache_clear()
    yield
    select_backend.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of compute capability 9.0 without NATTEN, on which Triton is too old and FlexAttention runs."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(triton, "unavailable", lambda place: "Triton is too old")
    monkeypatch.setattr(natten, "unavailable", lambda place: "natten is not installed")
    monkeypatch.setattr(flex, "self_test", lambda attend, place: None)
    return monkeypatch


@torch.inference_mode()
def test_a_backend_is_tested_with_gradients_also_by_a_first_use_without_them():
    assert self_test(tiled_pytorch.attend, dataclasses.replace(CPU, head_dim=8)) is None


# --- automatic selection ---------------------------------------------------------------------------------------------


def test_a_cpu_with_a_compiler_uses_the_native_kernels(monkeypatch):
    monkeypatch.setattr(native_backend.attention, "unavailable", lambda dtype: None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert select_backend(CPU).note == "neighborhood attention: native C++ (CPU, AVX512)"
    assert select_backend(CPU).attend is BACKENDS["native"].attend


def test_a_cpu_without_a_compiler_uses_the_tiled_backend_and_logs_the_reason(monkeypatch):
    monkeypatch.setattr(native_backend.attention, "unavailable", lambda dtype: "no C++ compiler is on the PATH")
    assert select_backend(CPU).note == "neighborhood attention: tiled (CPU): no C++ compiler is on the PATH"
    assert select_backend(CPU).attend is BACKENDS["tiled"].attend


def test_a_gpu_with_natten_uses_it_and_logs_the_name_of_its_kernel(gpu):
    module = ModuleType("natten")
    module.__version__ = "0.21.7"
    gpu.setitem(sys.modules, "natten", module)
    gpu.setattr(natten, "unavailable", lambda place: None)
    gpu.setattr(natten, "kernel", lambda module, place: "hopper-fna")
    reason = "preferred over hdit's Triton kernels, which have not been timed against it on a GPU yet"
    assert select_backend(GPU).note == f"neighborhood attention: natten 0.21.7 hopper-fna (CUDA 9.0): {reason}"


def test_a_gpu_without_natten_uses_hdits_triton_kernels(gpu):
    module = ModuleType("triton")
    module.__version__ = "3.7.1"
    gpu.setitem(sys.modules, "triton", module)
    gpu.setattr(triton, "unavailable", lambda place: None)
    expected = "Triton 3.7.1 kernels of hdit (CUDA 9.0): natten is not installed"
    assert select_backend(GPU).note == f"neighborhood attention: {expected}"


def test_a_gpu_with_neither_natten_nor_triton_uses_flexattention(gpu):
    name = f"FlexAttention of torch {torch.__version__}, compiled (CUDA 9.0)"
    assert select_backend(GPU).note == f"neighborhood attention: {name}: natten is not installed; Triton is too old"


def test_a_gpu_with_none_of_them_uses_the_tiled_backend_and_logs_all_reasons(gpu):
    gpu.setattr(flex, "self_test", lambda attend, place: "fails its self-test: RuntimeError: no Triton")
    missing = "natten is not installed; Triton is too old; FlexAttention fails its self-test: RuntimeError: no Triton"
    assert select_backend(GPU).reason == f"tiled (CUDA 9.0): {missing}"


def test_float64_on_a_gpu_uses_the_tiled_backend(gpu):
    gpu.undo()
    gpu.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    found = select_backend(dataclasses.replace(GPU, dtype=torch.float64))
    assert found.name == "tiled"
    assert "FlexAttention supports float16, bfloat16 and float32, found float64" in found.reason


@pytest.mark.parametrize("device", ["mps", "meta", "xpu"])
def test_any_other_device_uses_the_tiled_backend(device):
    assert select_backend(KernelTarget(torch.device(device), torch.float32, 64)).reason == f"tiled ({device.upper()})"


def test_amd_gpus_are_called_rocm(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert GPU.device_name == "ROCm"


def test_a_backend_is_chosen_once_per_target(monkeypatch):
    asked = []
    monkeypatch.setattr(native_backend.attention, "unavailable", lambda dtype: asked.append(dtype))
    for _ in range(3):
        select_backend(CPU)
        select_backend(dataclasses.replace(CPU, dtype=torch.bfloat16))
    assert asked == [torch.float32, torch.float32]  # 16-bit numbers are computed in 32


# --- requested backends ----------------------------------------------------------------------------------------------


def test_a_requested_backend_is_used_and_logged():
    assert select_backend(CPU, "tiled").note == "neighborhood attention: tiled (CPU): set by model.attention_backend"


@pytest.mark.parametrize(
    ("place", "wanted", "message"),
    [
        (CPU, "natten", "it runs on cuda devices only, the network is on cpu; available: auto, .*tiled"),
        (CPU, "triton", "it runs on cuda devices only, the network is on cpu"),
        (GPU, "triton", "Triton is too old; available: auto, flex, tiled"),
        (CPU, "flex", "it runs on cuda devices only, the network is on cpu"),
        (GPU, "native", "it runs on cpu devices only, the network is on cuda; available: auto, flex, tiled"),
        (GPU, "natten", "natten is not installed; available: auto, flex, tiled"),
        (
            dataclasses.replace(GPU, head_dim=8),
            "flex",
            "FlexAttention supports head_dim of at least 16, found 8; avail",
        ),
    ],
)
@pytest.mark.usefixtures("gpu")
def test_a_requested_backend_that_cannot_run_is_refused_with_the_reason(place, wanted, message):
    with pytest.raises(UsageError, match=rf"^model\.attention_backend = '{wanted}' cannot run here: {message}"):
        select_backend(place, wanted)


def test_availability_lists_every_backend_with_its_reason(gpu):
    found = availability(GPU)
    assert list(found) == ["native", "natten", "triton", "flex", "tiled"]
    assert found["flex"] is found["tiled"] is None
    assert found["natten"] == "natten is not installed"
    assert found["native"] == "it runs on cpu devices only, the network is on cuda"


# --- the choices of a network ----------------------------------------------------------------------------------------


def model(**changes):
    def level(width, head_dim, attention):
        return {"depth": 1, "width": width, "head_dim": head_dim, "attention": attention, "kernel_size": 3}

    levels = (level(32, 16, "neighborhood"), level(32, 8, "neighborhood"), level(64, 16, "global"))
    return ModelRecipe(**({"image_size": 32, "levels": levels} | changes))


def test_a_network_lists_each_choice_of_its_levels_once():
    found = selected_backends(model(attention_backend="tiled"), torch.device("cpu"), torch.float32)
    assert [choice.name for choice in found] == ["tiled"]


def test_a_network_whose_requested_backend_cannot_run_is_refused():
    with pytest.raises(UsageError, match=r"^model\.attention_backend = 'flex' cannot run here"):
        selected_backends(model(attention_backend="flex"), torch.device("cpu"), torch.float32)


def test_a_network_without_neighborhood_attention_selects_no_backend():
    levels = ({"depth": 1, "width": 64, "attention": "global"},)
    assert selected_backends(model(levels=levels, attention_backend="natten"), torch.device("cpu"), torch.float32) == []


def test_selecting_a_backend_on_a_cpu_does_not_load_torchs_compiler():
    code = "import sys, hdit_core.checkpoint.denoiser; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
