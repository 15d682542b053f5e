"""A trial before an implementation from outside is trusted: small tensors, both passes, against the tiled one.

Kernels that were built for another torch or another GPU import well and fail when they are called, or worse, do not.
"""

import torch
from torch import Tensor

from hdit_core.model.attention.interface import AttentionFn, KernelTarget
from hdit_core.model.attention.tiled import attend as tiled

SHAPE = (1, 12, 20, 2)  # batch, rows, columns, heads: not square, and no multiple of anybody's tiles
KERNEL_SIZE = 5
TOLERANCE = 0.02  # of the largest number; 16-bit results are off by 0.005, a forgotten scale by more than 0.1


def self_test(attend: AttentionFn, target: KernelTarget) -> str | None:
    """Return what is wrong with `attend(q, k, v, kernel_size)` at a place, None where its numbers are right.

    Whatever it raises is caught: it is another's program, and there is one that can take its place.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = torch.randn(4, *SHAPE, target.head_dim, generator=generator).to(target.device, target.dtype)
    try:
        found = _both_passes(attend, q, k, v, grad)
    except Exception as problem:
        said = str(problem).strip().splitlines() or ["no message"]
        return f"fails a trial: {type(problem).__name__}: {said[0][:200]}"
    expected = _both_passes(tiled, q, k, v, grad)
    for name, ours, theirs in zip(("outputs", "gradients of q", "of k", "of v"), expected, found, strict=True):
        error = ((theirs.float() - ours.float()).abs().max() / ours.float().abs().max()).item()
        if not error <= TOLERANCE:
            return f"gives wrong numbers in a trial: {name} are off by {error:.2g} of the largest"
    return None


@torch.enable_grad()
def _both_passes(attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> list[Tensor]:
    q, k, v = (x.clone().requires_grad_() for x in (q, k, v))
    out = attend(q, k, v, KERNEL_SIZE)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad)]
