"""The compiled neighborhood attention: properties beyond those in `test_neighborhood.py`."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from inspect import unwrap
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hdit_core.model.native.attention import native_attention, unavailable
from tests.model.neighborhoods import assert_by_definition, random_qkv, with_gradients

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=str(unavailable()))


def set_threads(monkeypatch, count):
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "case",  # batch, height, width, heads, features, kernel
    [
        (2, 7, 18, 2, 3, 3),
        (1, 8, 33, 1, 24, 5),
        (1, 7, 16, 2, 40, 7),
        (2, 9, 17, 1, 64, 9),
        (1, 10, 50, 1, 64, 7),
        (1, 13, 15, 1, 80, 13),
        (1, 18, 19, 1, 12, 17),
    ],
    ids=str,
)
def test_any_head_dim_and_kernel_agree_with_the_definition(case, dtype):
    assert_by_definition(native_attention, case, dtype)


@pytest.mark.parametrize("case", [(2, 29, 21, 2, 8, 5), (1, 150, 99, 3, 24, 7)], ids=str)
def test_results_are_bit_identical_on_any_number_of_threads(case, monkeypatch):
    *shape, kernel_size = case
    inputs = random_qkv(*shape, torch.float32)
    results = []
    for threads in (1, 2, 3, 8):
        set_threads(monkeypatch, threads)
        results.append(with_gradients(lambda *qkv: native_attention(*qkv, kernel_size), *inputs))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


def test_an_image_is_bit_identical_alone_and_in_a_batch(monkeypatch):
    set_threads(monkeypatch, 2)
    inputs = random_qkv(5, 17, 20, 2, 16, torch.float32)
    together = with_gradients(lambda *qkv: native_attention(*qkv, 7), *inputs)
    for image in range(5):
        alone = with_gradients(lambda *qkv: native_attention(*qkv, 7), *(x[image : image + 1] for x in inputs))
        assert all(torch.equal(one[0], all_[image]) for one, all_ in zip(alone, together, strict=True))


def test_recomputing_the_attention_weights_makes_no_difference():
    q, k, v, _ = random_qkv(2, 30, 21, 2, 8, torch.float32)
    expected = native_attention(q.requires_grad_(), k, v, 5)
    assert torch.equal(native_attention(q.detach(), k, v, 5), expected)
    with torch.no_grad():
        assert torch.equal(native_attention(q, k, v, 5), expected)


def test_views_of_any_strides_are_read_without_a_copy():
    packed = torch.randn(2, 9, 3, 3, 17, 24, generator=torch.Generator().manual_seed(0))
    q, k, v = (packed[:, :, i].transpose(2, 3)[..., 8:] for i in range(3))  # [2, 9, 17, 3, 16]
    backwards = torch.randn(2, 9, 17, 16, 3, generator=torch.Generator().manual_seed(1)).mT  # features not side by side
    plain = [x.contiguous() for x in (q, k, v, backwards)]
    expected = with_gradients(lambda *qkv: native_attention(*qkv, 5), *plain)
    leaf = packed.clone().requires_grad_()
    out = native_attention(*(leaf[:, :, i].transpose(2, 3)[..., 8:] for i in range(3)), 5)
    out.backward(backwards)
    assert torch.equal(out, expected[0])
    for i in range(3):
        assert torch.equal(leaf.grad[:, :, i].transpose(2, 3)[..., 8:], expected[1 + i])
    assert torch.equal(native_attention(backwards, k, v, 5), native_attention(plain[3], k, v, 5))


def test_an_expanded_gradient_is_accepted():
    q, k, v, _ = random_qkv(2, 6, 9, 2, 8)
    expected = with_gradients(lambda *qkv: native_attention(*qkv, 3), q, k, v, torch.ones_like(q))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    found = torch.autograd.grad(native_attention(*leaves, 3).sum(), leaves)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected[1:], strict=True))


def test_values_may_have_fewer_features_than_queries_and_keys():
    q, k, v, grad = random_qkv(1, 6, 9, 2, 8, torch.float32)
    found = with_gradients(lambda *qkv: native_attention(*qkv, 3), q, k, v.bfloat16(), grad.bfloat16())
    expected = with_gradients(
        lambda *qkv: native_attention(*qkv, 3), q, k, v.bfloat16().float(), grad.bfloat16().float()
    )
    assert [x.dtype for x in found] == [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs.to(ours.dtype))


def test_nan_affects_only_the_windows_that_contain_it():
    q, k, v, _ = random_qkv(1, 13, 40, 1, 8, torch.float32)
    k[0, 6, 20] = torch.nan
    lost = native_attention(q, k, v, 5).isnan().all(-1)[0, :, :, 0]
    assert lost[4:9, 18:23].all()
    assert lost.sum() == 25


def test_with_logits_far_apart_the_largest_gets_all_the_weight():
    q, k, v, _ = random_qkv(1, 5, 17, 1, 8, torch.float32)
    k[0, 2, 3] = 1e4 * q[0, 2, 3]
    assert torch.equal(native_attention(q, k, v, 3)[0, 2, 3], v[0, 2, 3])


def test_an_empty_batch_is_accepted():
    found = with_gradients(lambda *qkv: native_attention(*qkv, 3), *torch.zeros(4, 0, 5, 6, 2, 8))
    assert [tuple(x.shape) for x in found] == [(0, 5, 6, 2, 8)] * 4


def test_the_operator_compiles_without_graph_breaks():
    q, k, v, grad = random_qkv(2, 8, 11, 2, 8, torch.float32)
    plain = unwrap(native_attention)  # torch.compile cannot follow the checks of shapes that the tests put around it

    def attend(q, k, v):
        return plain(2 * q, k, v, 5) + v

    whole = torch.compile(attend, fullgraph=True, backend="aot_eager")
    found, expected = (with_gradients(function, q, k, v, grad) for function in (whole, attend))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_operators_pass_torchs_opcheck():
    q, k, v, grad = random_qkv(2, 5, 7, 2, 8)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.hdit.native_attention.default, (*leaves, 3, True), test_utils=tests)
    weights = torch.ops.hdit.native_attention(q, k, v, 3, True)[1].detach()
    inputs = (grad, *(x.detach() for x in leaves), weights, 3)
    torch.library.opcheck(torch.ops.hdit.native_attention_backward.default, inputs, test_utils=tests)


def test_torchs_flop_counter_counts_the_operator():
    q, k, v, _ = random_qkv(2, 5, 7, 2, 8, torch.float32)
    with FlopCounterMode(display=False) as counter:
        native_attention(q.requires_grad_(), k, v, 3).sum().backward()
    forward = 2 * 2 * (2 * 5 * 7 * 2) * 9 * 8  # two products, of all queries with 9 keys
    assert counter.get_total_flops() == forward + 2 * forward


def test_a_second_derivative_raises_an_error():
    q, k, v, _ = random_qkv(1, 6, 9, 1, 8)
    (grad,) = torch.autograd.grad(native_attention(q.requires_grad_(), k, v, 3).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_queries_keys_and_values_of_unlike_shapes_are_refused():
    q, k, v, _ = random_qkv(1, 6, 9, 1, 8)
    with pytest.raises(ValueError, match=r"q, k and v have shapes .*: expected the same"):
        torch.ops.hdit.native_attention(q, k[:, :5], v, 3, False)


def test_a_forked_child_creates_its_own_threads():
    code = """
import os, sys, torch
from hdit_core.model.native.attention import native_attention
torch.set_num_threads(3)
qkv = torch.randn(3, 1, 40, 40, 2, 8).unbind()
expected = native_attention(*qkv, 5)
children = []
for _ in range(3):
    if (child := os.fork()) == 0:
        os._exit(0 if torch.equal(native_attention(*qkv, 5), expected) else 1)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], timeout=300, check=True)


def test_several_threads_may_call_the_kernel_at_once(monkeypatch):
    set_threads(monkeypatch, 2)
    q, k, v, _ = random_qkv(1, 40, 41, 2, 8, torch.float32)
    expected = native_attention(q, k, v, 5)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: native_attention(q, k, v, 5), range(40)))
    assert all(torch.equal(out, expected) for out in found)
