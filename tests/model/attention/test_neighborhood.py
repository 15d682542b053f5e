"""Every backend that runs on a CPU computes neighborhood attention.

GPU backends are compared with the same definition in `test_flex.py`, `test_natten.py` and `tests/model/triton`.
"""

from functools import partial

import pytest
import torch
from einops import rearrange

from hdit_core.model.attention.interface import KernelTarget
from hdit_core.model.attention.neighborhood import neighborhood_attention
from hdit_core.model.attention.neighborhood_backends import BACKENDS
from tests.model.neighborhoods import CASES, assert_by_definition, random_qkv, with_gradients


@pytest.fixture(params=[name for name, backend in BACKENDS.items() if backend.device_type in (None, "cpu")])
def attend(request):
    """Neighborhood attention by each backend; skips, with the reason, those that cannot run."""
    if missing := BACKENDS[request.param].missing(KernelTarget(torch.device("cpu"), torch.float64, 8)):
        pytest.skip(missing)
    return partial(neighborhood_attention, backend=request.param)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients_equal_those_of_the_definition(attend, case, dtype):
    assert_by_definition(attend, case, dtype)


def test_outputs_and_gradients_equal_those_of_the_reference(attend, reference):
    tensors = reference("na2d")
    cases = {key.rsplit(".", 1)[0] for key in tensors}
    assert len(cases) == 4
    for case in cases:
        q, k, v, grad, *expected = (
            tensors[f"{case}.{key}"].double() for key in ("q", "k", "v", "dout", "out", "dq", "dk", "dv")
        )
        scale, kernel_size = q.shape[-1] ** -0.5, int(case.rsplit("_k", 1)[1])
        found = with_gradients(lambda q, k, v: attend(q * scale, k, v, kernel_size), q, k, v, grad)  # noqa: B023
        for ours, theirs in zip(found, expected, strict=True):
            assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-7  # recorded in float32


def test_the_analytic_gradient_equals_the_numerical_one(attend):
    q, k, v, _ = random_qkv(1, 3, 11, 1, 2)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    assert torch.autograd.gradcheck(lambda *qkv: attend(*qkv, 3), leaves)


def test_a_kernel_as_large_as_the_grid_is_global_attention(attend):
    q, k, v, _ = random_qkv(2, 7, 7, 2, 8)
    heads_first = [rearrange(x, "b h w n d -> b n (h w) d") for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads_first, scale=1.0)
    found = rearrange(attend(q, k, v, 7), "b h w n d -> b n (h w) d")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 5e-3), (torch.float16, 6e-4)])
def test_lower_precision_loses_no_more_than_the_rounding_of_inputs_and_outputs(attend, dtype, tolerance):
    inputs = random_qkv(2, 9, 14, 2, 8, dtype)
    found = with_gradients(lambda *qkv: attend(*qkv, 5), *inputs)
    exact = with_gradients(lambda *qkv: attend(*qkv, 5), *(x.double() for x in inputs))
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == dtype
        assert ((ours.double() - theirs).norm() / theirs.norm()).item() < tolerance


def test_autocast_does_not_round_the_logits(attend):
    q, k, v, _ = random_qkv(1, 9, 12, 2, 8, torch.float32)
    expected = attend(10 * q, k, v, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attend(10 * q, k, v, 5), expected)


def test_inputs_may_be_views(attend):
    packed = torch.randn(2, 10, 19, 3, 2, 8, dtype=torch.float64)
    q, k, v = packed.unbind(3)
    expected = attend(*(x.contiguous() for x in (q, k, v)), 5)
    assert torch.equal(attend(q, k, v, 5), expected)


def test_a_mask_made_in_inference_mode_can_be_used_in_training(attend):
    q, k, v, grad = random_qkv(1, 21, 22, 1, 8)
    with torch.inference_mode():
        expected = attend(q, k, v, 3)
    found = with_gradients(lambda *qkv: attend(*qkv, 3), q, k, v, grad)
    assert torch.equal(found[0], expected)


@pytest.mark.parametrize(("height", "width", "kernel_size"), [(8, 8, 4), (6, 20, 7), (20, 6, 7)])
def test_an_even_or_too_large_kernel_is_refused(attend, height, width, kernel_size):
    q, k, v, _ = random_qkv(1, height, width, 1, 8)
    message = f"kernel_size = {kernel_size} on a grid of {height}x{width}: expected an odd number"
    with pytest.raises(ValueError, match=message):
        attend(q, k, v, kernel_size)


def test_a_second_derivative_raises_an_error(attend):
    q, k, v, _ = random_qkv(1, 6, 9, 1, 8)
    q.requires_grad_()
    (grad,) = torch.autograd.grad(attend(q, k, v, 3).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        grad.sum().backward()


def test_a_key_affects_exactly_the_queries_whose_window_contains_it(attend):
    q, k, v, _ = random_qkv(1, 20, 26, 1, 8)
    before = attend(q, k, v, 5)
    for x in (k, v):
        x[0, 10, 12] += 1
    changed = (attend(q, k, v, 5) != before).any(-1)[0, :, :, 0]
    assert changed[8:13, 10:15].all()
    assert changed.sum() == 25
