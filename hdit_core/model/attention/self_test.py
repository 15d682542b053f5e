"""Self-test of attention kernels before their first use: forward and backward pass against the tiled backend.

Kernels that were built for another torch or another GPU may import without error and then fail, or compute wrong
numbers.
"""

import torch
from torch import Tensor

from hdit_core.model.attention.interface import AttentionFn, KernelTarget
from hdit_core.model.attention.tiled_pytorch import attend as tiled

SHAPE = (1, 12, 20, 2)  # batch, rows, columns, heads: not square, and not a multiple of any kernel's tiles
KERNEL_SIZE = 5
TOLERANCE = 0.02  # relative to the largest number; 16-bit errors are 0.005, a missing scale more than 0.1


@torch.inference_mode(False)  # a first forward pass in inference mode tests the gradients too
def self_test(attend: AttentionFn, target: KernelTarget) -> str | None:
    """Return how `attend(q, k, v, kernel_size)` fails on a target, or None if it passes.

    All exceptions are caught: the code is third-party, and another backend can be used.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = torch.randn(4, *SHAPE, target.head_dim, generator=generator).to(target.device, target.dtype)
    try:
        results = _both_passes(attend, q, k, v, grad)
    except Exception as problem:
        message = str(problem).strip().splitlines() or ["no message"]
        return f"fails its self-test: {type(problem).__name__}: {message[0][:200]}"
    references = _both_passes(tiled, q, k, v, grad)
    names = ("outputs", "gradients of q", "gradients of k", "gradients of v")
    for name, reference, result in zip(names, references, results, strict=True):
        error = ((result.float() - reference.float()).abs().max() / reference.float().abs().max()).item()
        if not error <= TOLERANCE:
            return f"fails its self-test: {name} have a relative error of {error:.2g}, expected at most {TOLERANCE}"
    return None


@torch.enable_grad()
def _both_passes(attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> list[Tensor]:
    q, k, v = (x.clone().requires_grad_() for x in (q, k, v))
    out = attend(q, k, v, KERNEL_SIZE)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad)]
