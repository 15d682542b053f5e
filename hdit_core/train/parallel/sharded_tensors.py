"""Whole tensors on the host from those that the ranks hold in parts, one after the other, and the way back.

No rank ever holds more than one whole parameter besides its parts, but for the main one, whose copies are on the CPU.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from hdit_core.distributed import World


def local_shard(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor, without a copy: a part along its rows, or all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def full_tensors_on_cpu(named: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """Return copies of tensors, whole and on the CPU, on the main rank; the others help and get none.

    All ranks have to call it, with the same names in the same order. What happens to the tensors afterwards does not
    reach the copies.
    """
    copies = {}
    for name, tensor in named.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if world.is_main:
            copies[name] = whole.to("cpu", copy=True).contiguous()
    return copies


@torch.no_grad()
def shard_like(whole: Tensor, pattern: Tensor) -> Tensor:
    """Return a tensor on the device of a pattern, and in parts as the pattern is if it has its shape.

    Args:
        whole: all of it, on every rank: nothing is sent.
    """
    if isinstance(pattern, DTensor) and pattern.shape == whole.shape:
        return distribute_tensor(whole, pattern.device_mesh, pattern.placements, src_data_rank=None)
    return whole.to(pattern.device)


@torch.no_grad()
def copy_into_shards(target: Tensor, whole: Tensor) -> None:
    """Write a whole tensor, which every rank has, into one that may be held in parts."""
    local_shard(target).copy_(local_shard(shard_like(whole, target)))


def distribute_into(targets: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
    """Write whole tensors, which every rank has, into those of the same names that may be held in parts.

    Raises:
        KeyError: a target has no tensor.
    """
    for name, target in targets.items():
        copy_into_shards(target, whole[name])
