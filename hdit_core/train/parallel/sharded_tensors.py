"""Conversion between sharded tensors and full tensors on the CPU, one tensor at a time.

No rank has more than one full parameter at a time, except the main one, whose copies are on the CPU.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from hdit_core.distributed import World


def local_shard(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor (of its rows), or the tensor itself, without a copy."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def full_tensors_on_cpu(named: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """Return full copies of tensors on the CPU, on the main rank only.

    A collective operation: all ranks call it with the same names in the same order.
    """
    copies = {}
    for name, tensor in named.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if world.is_main:
            copies[name] = whole.to("cpu", copy=True).contiguous()
    return copies


@torch.no_grad()
def shard_like(whole: Tensor, pattern: Tensor) -> Tensor:
    """Return a tensor on the device of a pattern, and sharded like it if it has the same shape.

    Args:
        whole: the full tensor, on every rank; there is no communication.
    """
    if isinstance(pattern, DTensor) and pattern.shape == whole.shape:
        return distribute_tensor(whole, pattern.device_mesh, pattern.placements, src_data_rank=None)
    return whole.to(pattern.device)


@torch.no_grad()
def copy_into_shards(target: Tensor, whole: Tensor) -> None:
    """Copy a full tensor, which every rank has, into one that may be sharded."""
    local_shard(target).copy_(local_shard(shard_like(whole, target)))


def distribute_into(targets: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
    """Copy full tensors, which every rank has, into those of the same names, which may be sharded.

    Raises:
        KeyError: a target has no tensor.
    """
    for name, target in targets.items():
        copy_into_shards(target, whole[name])
