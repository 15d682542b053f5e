"""Neighborhood attention by tiles is neighborhood attention."""

import pytest
import torch
from einops import rearrange

from hdit_core.model.neighborhood import neighborhood_attention
from hdit_core.model.tiling import Axis, cut

CASES = [  # batch, height, width, heads, features, kernel
    (2, 7, 9, 3, 8, 3),
    (1, 8, 8, 2, 16, 7),
    (2, 5, 23, 1, 8, 5),
    (1, 31, 17, 2, 8, 7),
    (1, 12, 40, 2, 8, 9),
    (1, 33, 35, 1, 8, 15),
    (1, 13, 11, 1, 8, 11),
    (1, 29, 7, 1, 8, 7),
]


def random_qkv(batch, height, width, heads, features, dtype=torch.float64):
    generator = torch.Generator().manual_seed(height * 100 + width)
    shape = (batch, height, width, heads, features)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for _ in range(4)]


def brute_force(q, k, v, kernel_size):
    """One query at a time, straight from the definition."""
    _, height, width, _, _ = q.shape
    rows = []
    for y in range(height):
        top = min(max(y - kernel_size // 2, 0), height - kernel_size)
        for x in range(width):
            left = min(max(x - kernel_size // 2, 0), width - kernel_size)
            window = (slice(None), slice(top, top + kernel_size), slice(left, left + kernel_size))
            logits = torch.einsum("bnd,bhwnd->bnhw", q[:, y, x], k[window])
            weights = rearrange(logits, "b n h w -> b n (h w)").softmax(-1)
            rows.append(torch.einsum("bnl,blnd->bnd", weights, rearrange(v[window], "b h w n d -> b (h w) n d")))
    return rearrange(rows, "(h w) b n d -> b h w n d", h=height)


def with_gradients(attend, q, k, v, grad):
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = attend(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients_are_those_of_the_definition(case):
    *shape, kernel_size = case
    q, k, v, grad = random_qkv(*shape)
    expected = with_gradients(lambda *qkv: brute_force(*qkv, kernel_size), q, k, v, grad)
    found = with_gradients(lambda *qkv: neighborhood_attention(*qkv, kernel_size), q, k, v, grad)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_outputs_and_gradients_are_the_references(reference):
    tensors = reference("na2d")
    cases = {key.rsplit(".", 1)[0] for key in tensors}
    assert len(cases) == 4
    for case in cases:
        q, k, v, grad, *expected = (
            tensors[f"{case}.{key}"].double() for key in ("q", "k", "v", "dout", "out", "dq", "dk", "dv")
        )
        scale, kernel_size = q.shape[-1] ** -0.5, int(case.rsplit("_k", 1)[1])
        found = with_gradients(lambda q, k, v: neighborhood_attention(q * scale, k, v, kernel_size), q, k, v, grad)  # noqa: B023
        for ours, theirs in zip(found, expected, strict=True):
            assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-7  # what is recorded was rounded to float32


def test_the_written_out_gradient_is_the_numerical_one():
    q, k, v, _ = random_qkv(1, 3, 11, 1, 2)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    assert torch.autograd.gradcheck(lambda *qkv: neighborhood_attention(*qkv, 3), leaves)


def test_a_kernel_as_large_as_the_grid_is_global_attention():
    q, k, v, _ = random_qkv(2, 7, 7, 2, 8)
    heads_first = [rearrange(x, "b h w n d -> b n (h w) d") for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads_first, scale=1.0)
    found = rearrange(neighborhood_attention(q, k, v, 7), "b h w n d -> b n (h w) d")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 5e-3), (torch.float16, 6e-4)])
def test_shorter_dtypes_lose_no_more_than_the_rounding_of_inputs_and_outputs(dtype, tolerance):
    inputs = random_qkv(2, 9, 14, 2, 8, dtype)
    found = with_gradients(lambda *qkv: neighborhood_attention(*qkv, 5), *inputs)
    exact = with_gradients(lambda *qkv: neighborhood_attention(*qkv, 5), *(x.double() for x in inputs))
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == dtype
        assert ((ours.double() - theirs).norm() / theirs.norm()).item() < tolerance


def test_autocast_does_not_round_the_logits():
    q, k, v, _ = random_qkv(1, 9, 12, 2, 8, torch.float32)
    expected = neighborhood_attention(10 * q, k, v, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(neighborhood_attention(10 * q, k, v, 5), expected)


def test_inputs_may_be_views():
    packed = torch.randn(2, 10, 19, 3, 2, 8, dtype=torch.float64)
    q, k, v = packed.unbind(3)
    expected = neighborhood_attention(*(x.contiguous() for x in (q, k, v)), 5)
    assert torch.equal(neighborhood_attention(q, k, v, 5), expected)


def test_a_mask_made_in_inference_mode_serves_training_too():
    q, k, v, grad = random_qkv(1, 21, 22, 1, 8)
    with torch.inference_mode():
        expected = neighborhood_attention(q, k, v, 3)
    found = with_gradients(lambda *qkv: neighborhood_attention(*qkv, 3), q, k, v, grad)
    assert torch.equal(found[0], expected)


@pytest.mark.parametrize("kernel_size", [3, 5, 7, 9, 13, 21])
@pytest.mark.parametrize("preferred", [1, 4, 8])
def test_every_query_finds_its_whole_window_in_its_halo(kernel_size, preferred):
    for size in range(kernel_size, 90):
        axis = cut(size, kernel_size, preferred)
        allowed = axis.allowed(kernel_size, torch.device("cpu"))
        assert allowed.shape == (axis.tiles, axis.tile, axis.halo)
        assert (allowed.sum(-1) == kernel_size).all(), axis
        assert axis.tiles * axis.tile >= size
        assert axis.padded >= axis.front + size


def test_the_work_of_a_query_does_not_grow_with_the_grid():
    assert {cut(size, 7, 4).halo for size in (64, 128, 1024, 8192)} == {10}
    assert max(cut(size, 7, 4).halo for size in range(64, 4096)) <= 13


def test_a_short_axis_stays_whole():
    assert cut(8, 7, 4) == Axis(size=8, tile=8, tiles=1, halo=8, front=0)


@pytest.mark.parametrize(("height", "width", "kernel_size"), [(8, 8, 4), (6, 20, 7), (20, 6, 7)])
def test_an_even_or_too_large_kernel_is_refused(height, width, kernel_size):
    q, k, v, _ = random_qkv(1, height, width, 1, 8)
    message = f"kernel_size = {kernel_size} on a grid of {height}x{width}: expected an odd number"
    with pytest.raises(ValueError, match=message):
        neighborhood_attention(q, k, v, kernel_size)


def test_a_second_derivative_is_refused_aloud():
    q, k, v, _ = random_qkv(1, 6, 9, 1, 8)
    q.requires_grad_()
    (grad,) = torch.autograd.grad(neighborhood_attention(q, k, v, 3).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        grad.sum().backward()


def test_a_key_is_seen_by_exactly_the_queries_whose_window_holds_it():
    q, k, v, _ = random_qkv(1, 20, 26, 1, 8)
    before = neighborhood_attention(q, k, v, 5)
    for x in (k, v):
        x[0, 10, 12] += 1
    changed = (neighborhood_attention(q, k, v, 5) != before).any(-1)[0, :, :, 0]
    assert changed[8:13, 10:15].all()
    assert changed.sum() == 25
