"""Neighborhood attention by the Triton kernels, in Triton's interpreter, against its definition in float64."""

from typing import get_args

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from hdit_core.model.triton import attention
from hdit_core.model.triton.attention import triton_attention
from hdit_core.model.triton.configuration import Configuration, Kernel, configurations
from hdit_core.model.triton.launch import Launch
from tests.model.neighborhoods import assert_by_definition, brute_force, random_qkv, with_gradients

pytestmark = pytest.mark.usefixtures("interpreted")

COARSE = Configuration((8, 8), (8, 32), warps=4, stages=1)  # few steps for the interpreter
CASES = [  # batch, height, width, heads, features, kernel
    (2, 7, 9, 2, 8, 3),
    (1, 3, 3, 1, 16, 3),
    (2, 5, 23, 1, 24, 5),
    (1, 18, 11, 1, 16, 7),
    (1, 9, 20, 1, 16, 9),
    (1, 11, 11, 2, 8, 11),
    (1, 22, 14, 1, 40, 13),
    (1, 5, 6, 1, 128, 5),
    (1, 1, 2, 1, 8, 1),
]
"""Odd, minimal (a side is the kernel, both are), and not square; tiles that hang over, and those inside of the grid."""


@pytest.fixture
def coarse(monkeypatch):
    """Take steps as large as the interpreter does well with."""
    monkeypatch.setattr(attention, "select", lambda launch: COARSE)


def relative_errors(found, inputs, kernel_size):
    """Return how far outputs and gradients are from the definition's in float64, of the largest."""
    expected = with_gradients(lambda *qkv: brute_force(*qkv, kernel_size), *(x.double() for x in inputs))
    pairs = zip(found, expected, strict=True)
    return [((ours.double() - exact).abs().max() / exact.abs().max().clamp(min=1)).item() for ours, exact in pairs]


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients_equal_those_of_the_definition(case):
    assert_by_definition(triton_attention, case, torch.float32)


CONFIGURATIONS = sorted(  # for the interpreter, warps and stages are all the same
    {
        (str(dtype), configuration.tile, configuration.chunk): (dtype, configuration)
        for dtype in (torch.float32, torch.bfloat16)
        for head_dim in (16, 64, 128)
        for kernel in get_args(Kernel)
        for configuration in configurations(kernel, dtype, head_dim)
    }.items()
)


@pytest.mark.parametrize(("dtype", "configuration"), [pair for _, pair in CONFIGURATIONS], ids=str)
def test_every_configuration_agrees_with_the_definition(monkeypatch, dtype, configuration):
    monkeypatch.setattr(attention, "select", lambda launch: configuration)
    inputs = random_qkv(1, 9, 12, 1, 16, dtype)
    found = with_gradients(lambda *qkv: triton_attention(*qkv, 5), *inputs)
    assert [x.dtype for x in found] == [dtype] * 4
    assert max(relative_errors(found, inputs, 5)) < (2e-2 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_16_bit_inputs_lose_no_more_than_their_rounding(dtype, tolerance, head_dim):
    inputs = [x / factor for x, factor in zip(random_qkv(2, 6, 9, 1, head_dim, dtype), (3, 3, 1, 1), strict=True)]
    found = with_gradients(lambda *qkv: triton_attention(*qkv, 3), *inputs)
    assert max(relative_errors(found, inputs, 3)) < tolerance


@pytest.mark.usefixtures("coarse")
def test_every_element_of_the_results_is_written(monkeypatch):
    poisoned = lambda x: torch.full(x.shape, float("nan"), dtype=x.dtype)  # noqa: E731
    monkeypatch.setattr(attention, "_empty_contiguous", poisoned)
    monkeypatch.setattr(attention, "_empty_per_query", lambda q: torch.full(q.shape[:-1], float("nan")))
    q, k, v, grad = random_qkv(2, 9, 5, 2, 24, torch.float32)
    out, lse = attention._forward(q, k, v, 5)
    grads = attention._backward(grad, q, k, v, out, lse, 5)
    assert all(x.isfinite().all() for x in (out, lse, *grads))


@pytest.mark.usefixtures("coarse")
def test_nothing_is_written_outside_of_the_results():
    q, k, v, _ = random_qkv(1, 9, 13, 1, 24, torch.float32)
    room, lse = torch.full((3, *q.shape[1:]), 7.0), torch.zeros(q.shape[:-1])
    Launch("forward", (q, k, v, room[1:2], lse), 5).run(COARSE)
    assert (room[[0, 2]] == 7).all()
    torch.testing.assert_close(room[1:2], brute_force(q, k, v, 5), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("coarse")
def test_views_give_the_same_bits_as_copies(monkeypatch):
    qkv = torch.randn(2, 6, 9, 3, 2, 16)
    q, k, v = qkv.unbind(3)
    copies = [x.contiguous() for x in (q, k, v)]
    seen = []
    monkeypatch.setattr(attention, "_readable", lambda x: seen.append(x.data_ptr()) or x)
    assert torch.equal(triton_attention(q, k, v, 3), triton_attention(*copies, 3))
    assert seen[:3] == [x.data_ptr() for x in (q, k, v)]


@pytest.mark.usefixtures("coarse")
def test_strided_features_and_expanded_gradients_are_accepted():
    q, k, v, _ = random_qkv(1, 6, 9, 2, 16, torch.float32)
    apart = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (q, k, v)]
    expected = with_gradients(lambda *qkv: triton_attention(*qkv, 3), q, k, v, torch.ones_like(q))
    leaves = [x.requires_grad_() for x in apart]
    found = torch.autograd.grad(triton_attention(*leaves, 3).sum(), leaves)
    for ours, theirs in zip(found, expected[1:], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("coarse")
def test_with_logits_far_apart_the_largest_gets_all_the_weight():
    q, k, v, _ = random_qkv(1, 5, 17, 1, 8, torch.float32)
    k[0, 2, 3] = 1e4 * q[0, 2, 3]
    assert torch.equal(triton_attention(q, k, v, 3)[0, 2, 3], v[0, 2, 3])


@pytest.mark.usefixtures("coarse")
def test_a_nan_reaches_the_queries_that_see_it():
    q, k, v, _ = random_qkv(1, 9, 12, 1, 8, torch.float32)
    k[0, 4, 5, 0, 0] = float("nan")
    assert triton_attention(q, k, v, 5)[0, 2:7, 3:8].isnan().all()


def test_an_empty_batch_is_accepted():
    found = with_gradients(lambda *qkv: triton_attention(*qkv, 3), *torch.zeros(4, 0, 5, 6, 2, 8))
    assert [tuple(x.shape) for x in found] == [(0, 5, 6, 2, 8)] * 4


# --- as an operator of torch -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("coarse")
def test_the_operators_pass_torchs_opcheck():
    q, k, v, grad = random_qkv(1, 5, 7, 1, 16, torch.float32)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.hdit.triton_attention.default, (*leaves, 3), test_utils=tests)
    kept = [x.detach() for x in torch.ops.hdit.triton_attention(q, k, v, 3)]
    inputs = (grad, *(x.detach() for x in leaves), *kept, 3)
    torch.library.opcheck(torch.ops.hdit.triton_attention_backward.default, inputs, test_utils=tests)


@pytest.mark.usefixtures("coarse")
def test_the_operator_compiles_and_exports_as_one_node():
    q, k, v, grad = random_qkv(2, 5, 7, 1, 16, torch.float32)

    class Layer(torch.nn.Module):
        def forward(self, q, k, v):
            return torch.ops.hdit.triton_attention(2 * q, k, v, 5)[0] + v

    torch._dynamo.reset()
    whole = torch.compile(Layer(), fullgraph=True, backend="aot_eager")
    found, expected = (with_gradients(function, q, k, v, grad) for function in (whole, Layer()))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    program = torch.export.export(Layer(), (q, k, v))
    assert "torch.ops.hdit.triton_attention.default" in program.graph_module.code
    torch.testing.assert_close(program.module()(q, k, v), expected[0])


@pytest.mark.usefixtures("coarse")
def test_activation_checkpointing_gives_the_same_gradients():
    q, k, v, grad = random_qkv(1, 5, 7, 1, 16, torch.float32)
    expected = with_gradients(lambda *qkv: triton_attention(*qkv, 3), q, k, v, grad)
    found = with_gradients(lambda *qkv: checkpoint(triton_attention, *qkv, 3, use_reentrant=False), q, k, v, grad)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.usefixtures("coarse")
def test_torchs_flop_counter_counts_the_operator():
    q, k, v, _ = random_qkv(2, 5, 7, 1, 16, torch.float32)
    with FlopCounterMode(display=False) as counter:
        triton_attention(q.requires_grad_(), k, v, 3).sum().backward()
    forward = 2 * 2 * (2 * 5 * 7) * 9 * 16  # two products, of all queries with 9 keys
    assert counter.get_total_flops() == forward + 2 * forward


@pytest.mark.usefixtures("coarse")
def test_a_second_derivative_is_refused():
    q, k, v, _ = random_qkv(1, 6, 9, 1, 16, torch.float32)
    (grad,) = torch.autograd.grad(triton_attention(q.requires_grad_(), k, v, 3).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="in Triton is differentiable once"):
        grad.sum().backward()


def test_queries_keys_and_values_of_unlike_shapes_or_dtypes_are_refused():
    q, k, v, _ = random_qkv(1, 6, 9, 1, 16, torch.float32)
    for unlike in (k[:, :5], k.bfloat16()):
        with pytest.raises(ValueError, match=r"q, k and v are .*: expected the same shape and dtype"):
            torch.ops.hdit.triton_attention(q, unlike, v, 3)
