"""The compiled passes over rows against the same formulas in PyTorch."""

import pytest
import torch

from hdit_core.model import geglu as gate
from hdit_core.model import norm
from hdit_core.model.attention import qk_norm_rope as similarity
from hdit_core.model.attention.qk_norm_rope import cosine_qk_norm_rope
from hdit_core.model.geglu import geglu
from hdit_core.model.native import rowwise as rows_module
from hdit_core.model.native.compiler import CompileError
from hdit_core.model.native.rowwise import RowwiseKernels, load_rowwise_kernels, rowwise_kernels
from hdit_core.model.norm import ScaledRMSNorm

pytestmark = pytest.mark.skipif(isinstance(load_rowwise_kernels(), str), reason=str(load_rowwise_kernels()))

GRIDS = [(1, 1, 1), (2, 3, 5), (3, 8, 11)]  # images, rows, columns


def leaf(*shape):
    return torch.randn(shape).requires_grad_()


def outputs_and_gradients(function, inputs):
    """Return a function's outputs and the gradients of its inputs, for gradients of the outputs that are not flat."""
    outputs = function(*inputs)
    numbers = torch.Generator().manual_seed(1)
    grads = [torch.randn(x.shape, generator=numbers) for x in outputs]
    return [*outputs, *torch.autograd.grad(outputs, inputs, grads)]


def agree(module, function, inputs, monkeypatch, rtol=2e-6):
    taken = []
    monkeypatch.setattr(
        module, "rowwise_kernels", lambda *tensors: taken.append(rowwise_kernels(*tensors)) or taken[-1]
    )
    found = outputs_and_gradients(function, inputs)
    assert len(taken) == 2 and all(isinstance(rows, RowwiseKernels) for rows in taken)
    monkeypatch.setattr(module, "rowwise_kernels", lambda *tensors: None)
    exact = outputs_and_gradients(function, [x.detach().double().requires_grad_() for x in inputs])
    for ours, theirs in zip(found, exact, strict=True):
        assert (ours - theirs).norm() <= rtol * theirs.norm()
        assert (ours - theirs).abs().max() <= 10 * rtol * theirs.abs().max()


@pytest.mark.parametrize("features", [1, 7, 48, 384])
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_the_gated_activation_and_its_gradient_agree_with_float64(features, spread, monkeypatch):
    x = (spread * torch.randn(2, 3, 5, 2 * features)).requires_grad_()
    agree(gate, lambda x: (geglu(x),), [x], monkeypatch)


@pytest.mark.parametrize("width", [4, 16, 40, 384])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_conditioned_norm_and_its_gradients_agree_with_float64(width, grid, monkeypatch):
    inputs = [leaf(*grid, width), leaf(grid[0], 1, 1, width)]
    agree(norm, lambda x, scale: ScaledRMSNorm.apply(x, scale), inputs, monkeypatch)


@pytest.mark.parametrize("shape", [(1, 8), (5, 24), (2, 3, 70, 16)])
def test_a_norm_with_one_scale_for_all_rows_and_its_gradients_agree_with_float64(shape, monkeypatch):
    agree(norm, lambda x, scale: ScaledRMSNorm.apply(x, scale)[:1], [leaf(*shape), leaf(shape[-1])], monkeypatch)


@pytest.mark.parametrize("head_dim", [8, 24, 64])
@pytest.mark.parametrize("grid", GRIDS)
def test_cosine_similarity_with_rotation_and_its_gradients_agree_with_float64(head_dim, grid, monkeypatch):
    images, height, width = grid
    torch.manual_seed(0)
    angles = torch.randn(height, width, 3, head_dim // 4)
    cos = torch.cat([angles.cos(), angles.cos(), torch.ones_like(angles), torch.ones_like(angles)], dim=-1)
    scale = torch.tensor([10.0, 3.0, 0.5], requires_grad=True)

    def similar(qkv, scale):
        rotation = (cos.to(qkv.dtype), angles.sin().to(qkv.dtype))
        query, key, value = cosine_qk_norm_rope(qkv, scale, rotation)
        return query.transpose(1, 3).flip(1), 2 * key, value.transpose(1, 2)  # their gradients come as odd views

    agree(similarity, similar, [leaf(images, height, width, 3, 3, head_dim), scale], monkeypatch)


def test_values_that_are_not_finite_stay_so():
    x = torch.tensor([[1.0, 2.0, torch.nan, 4.0], [1.0, torch.inf, 1.0, torch.nan]])
    assert geglu(x).isnan().tolist() == [[True, False], [False, True]]
    assert ScaledRMSNorm.apply(x, torch.ones(4))[0][0].isnan().all()


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_over_rows_are_bit_identical_on_any_number_of_threads(threads):
    torch.manual_seed(0)
    inputs = [leaf(2, 9, 11, 40), leaf(2, 1, 1, 40)]
    expected = outputs_and_gradients(lambda x, scale: ScaledRMSNorm.apply(x, scale), inputs)
    torch.set_num_threads(threads)
    try:
        found = outputs_and_gradients(lambda x, scale: ScaledRMSNorm.apply(x, scale), inputs)
    finally:
        torch.set_num_threads(1)
    assert all(map(torch.equal, found, expected))


def test_only_plain_float32_tensors_on_a_cpu_are_supported():
    plain = torch.zeros(2, 4)
    assert isinstance(rowwise_kernels(plain, torch.nn.Parameter(plain)), RowwiseKernels)
    assert rowwise_kernels(plain, plain.double()) is None
    assert rowwise_kernels(plain.bfloat16()) is None
    assert rowwise_kernels(plain.to("meta")) is None
    with torch._subclasses.FakeTensorMode() as mode:
        assert rowwise_kernels(mode.from_tensor(plain)) is None


def test_without_a_compiler_torch_is_used_and_the_reason_is_recorded(monkeypatch):
    def refuse(*arguments):
        raise CompileError("no C++ compiler (c++, g++, clang++) is on the PATH")

    monkeypatch.setattr(rows_module, "library_path", refuse)
    load_rowwise_kernels.cache_clear()
    try:
        assert load_rowwise_kernels() == "no C++ compiler (c++, g++, clang++) is on the PATH"
        assert rowwise_kernels(torch.zeros(2, 4)) is None
        assert geglu(torch.ones(2, 4)).shape == (2, 2)
    finally:
        load_rowwise_kernels.cache_clear()


def test_the_log_has_the_reason_why_kernels_are_not_compiled(monkeypatch):
    monkeypatch.setattr(rows_module, "load_rowwise_kernels", lambda: "no C++ compiler (c++) is on the PATH")
    expected = "fused CPU kernels: none, using PyTorch: no C++ compiler (c++) is on the PATH"
    assert rows_module.kernels_note(torch.device("cpu"), torch.float32) == expected
    assert rows_module.kernels_note(torch.device("cpu"), torch.bfloat16) is None
    assert rows_module.kernels_note(torch.device("cuda"), torch.float32) is None
