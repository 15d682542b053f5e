"""Muon: momentum whose matrices are orthogonalized before the update (Jordan et al. 2024).

An update U S V^T of a hidden matrix becomes about U V^T, so that rare directions of the gradient move as far as
frequent ones. It is scaled by 0.2 sqrt(max(rows, columns)) to the usual size of AdamW's updates at every width, so that
both can share a learning rate and a weight decay (Moonlight, Liu et al. 2025, arXiv 2502.16982, section 2.2).

torch has its own Muon (2.9 and later, `match_rms_adamw`), and the two agree. torch's takes queries, keys and values as
one matrix, and values and gates too, rounds to bfloat16 even on CPUs, where that is five times slower, and does not
support sharded matrices.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor

from hdit_core.train.parallel.sharded_tensors import local_shard, shard_like

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: steep at 0, and within 0.3 of 1 after five iterations
ITERATIONS = 5
USUAL_UPDATE = 0.2  # root mean square of AdamW's (Moonlight)
SMALLEST_NORM = 1e-7


def orthogonal(matrices: Float[Tensor, "*stack rows columns"]) -> Float[Tensor, "*stack rows columns"]:
    """Return about U V^T of U S V^T for each matrix; singular values end between about 0.7 and 1.2.

    Newton-Schulz iteration: a polynomial in X acts on the singular values only. In bfloat16 on GPUs, else float32.
    """
    on_gpu = matrices.device.type == "cuda"
    x = matrices.to(torch.bfloat16 if on_gpu else torch.promote_types(matrices.dtype, torch.float32))
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_NORM)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def _gathered(shard: Tensor, pattern: Tensor) -> Tensor:
    """Return the full tensor of a shard that is laid out like the pattern."""
    if not isinstance(pattern, DTensor):
        return shard
    mesh, placements, shape, stride = pattern.device_mesh, pattern.placements, pattern.shape, pattern.stride()
    return DTensor.from_local(shard, mesh, placements, run_check=False, shape=shape, stride=stride).full_tensor()


class Muon(torch.optim.Optimizer):
    """The optimizer of matrices. Its state is one tensor per parameter, `momentum`.

    If the weights are sharded, every rank gathers and orthogonalizes the full update.

    Args:
        groups: with `params`, `lr`, `weight_decay`, and `stacked`: for each parameter, the number of matrices stacked
            in it along the rows.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for parameter, stacked in zip(group["params"], group["stacked"], strict=True):
                if parameter.grad is not None:
                    self._update(parameter, stacked, group["lr"], group["weight_decay"])

    def _update(self, parameter: Tensor, stacked: int, lr: float, weight_decay: float) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum, grad = local_shard(state["momentum"]), local_shard(parameter.grad)
        momentum.lerp_(grad, 1 - MOMENTUM)
        ahead = _gathered(grad.lerp(momentum, MOMENTUM), parameter)  # Nesterov's

        matrices = rearrange(ahead, "(stack rows) columns -> stack rows columns", stack=stacked)
        size = USUAL_UPDATE * math.sqrt(max(matrices.shape[-2:]))
        update = rearrange(orthogonal(matrices), "stack rows columns -> (stack rows) columns")
        weights = local_shard(parameter)
        weights.mul_(1 - lr * weight_decay).sub_(local_shard(shard_like(update, parameter)), alpha=lr * size)


class ChainedOptimizer(torch.optim.Optimizer):
    """Several optimizers as one, each for its own parameters; they share the list of groups and the state."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self.optimizers = optimizers
        for optimizer in optimizers:
            optimizer.state = self.state

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step each optimizer."""
        for optimizer in self.optimizers:
            optimizer.step()


def is_hidden(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter maps hidden features to hidden features, which is what Muon is for.

    Patches, conditioning and the modulation of norms have pixels, embeddings or scales on one side.
    """
    outside = name.startswith(("conditioning.", "patch_in.", "patch_out.")) or name.endswith("norm.modulation.weight")
    return parameter.ndim == 2 and not outside


def matrices_in(name: str, shapes: Mapping[str, torch.Size]) -> int:
    """Return how many matrices are stacked in a hidden parameter: queries, keys, values; or values, gates."""
    if name.endswith("attention.qkv.weight"):
        return 3
    if name.endswith("feed_forward.up.weight"):
        return shapes[name][0] // shapes[name.replace(".up.", ".down.")][1]
    return 1
