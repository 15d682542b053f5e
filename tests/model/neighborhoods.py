"""Neighborhood attention from its definition, and the cases on which implementations are compared with it."""

import torch
from einops import rearrange

CASES = [  # batch, height, width, heads, features, kernel
    (2, 7, 9, 3, 8, 3),
    (1, 8, 8, 2, 16, 7),
    (2, 5, 23, 1, 8, 5),
    (1, 31, 17, 2, 8, 7),
    (1, 12, 40, 2, 8, 9),
    (1, 19, 33, 1, 8, 15),
    (1, 13, 11, 1, 8, 11),
    (1, 29, 7, 1, 8, 7),
    (2, 3, 3, 1, 8, 3),
    (2, 1, 2, 1, 8, 1),
]


def random_qkv(batch, height, width, heads, features, dtype=torch.float64):
    """Return queries, keys, values and a gradient of the output."""
    generator = torch.Generator().manual_seed(height * 100 + width)
    shape = (batch, height, width, heads, features)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for _ in range(4)]


def brute_force(q, k, v, kernel_size):
    """One query at a time."""
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
    """Return the output and the gradients of q, k and v."""
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = attend(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def assert_by_definition(attend, case, dtype=torch.float64):
    """Hold outputs and gradients of `attend(q, k, v, kernel_size)` against the definition's in float64.

    In float64 to the last bits; in float32 to 1e-5 of the largest output, and to 1e-4 for gradients.
    """
    *shape, kernel_size = case
    inputs = random_qkv(*shape, dtype)
    expected = with_gradients(lambda *qkv: brute_force(*qkv, kernel_size), *(x.double() for x in inputs))
    found = with_gradients(lambda *qkv: attend(*qkv, kernel_size), *inputs)
    tolerances = (1e-12,) * 4 if dtype == torch.float64 else (1e-5, *(1e-4,) * 3)
    for ours, theirs, tolerance in zip(found, expected, tolerances, strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - theirs).abs().max() <= tolerance * max(theirs.abs().max(), 1), case
