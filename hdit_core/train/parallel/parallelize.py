"""Data parallelism: replicated weights (DDP) or sharded ones (FSDP2, HSDP).

Initial weights, images and noise are bit-identical in every mode, and checkpoints are unsharded: a run may resume with
another number of ranks, or in another mode. Rounding is the same too: shards are gathered in float32, and `autocast`
rounds according to `train.precision`.
"""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from hdit_core.distributed import World
from hdit_core.model.blocks import TransformerLayer
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.plan.sharding import needs_sharding, state_bytes
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.train import TrainRecipe
from hdit_core.train.parallel.sharded_tensors import copy_into_shards, local_shard

# the network's buffers are the same constants on all ranks; torch renames the option
_SYNC_BUFFERS = ("forward_sync_buffers", "broadcast_buffers")
NO_BUFFERS: dict[str, Any] = {
    next(name for name in _SYNC_BUFFERS if name in signature(DistributedDataParallel).parameters): False
}


@dataclass(frozen=True)
class Parallelism:
    """How the ranks share the network.

    Attributes:
        mesh: the ranks over which the weights are sharded; None: each rank has all of them.
        ranks: number of ranks.
        note: a message with the mode and its reason; may be empty.
    """

    mesh: DeviceMesh | None = None
    ranks: int = 1
    note: str = ""

    def network(self, recipe: Recipe, device: torch.device) -> HourglassTransformer:
        """Return a recipe's network with its initial weights, bit-identical however they are sharded."""
        if self.mesh is None:
            network = HourglassTransformer(recipe.model)
            initialize(network, recipe.train.seed)
            return network.to(device)
        network = _shard(recipe, self.mesh, device)
        initialize(network, recipe.train.seed, copy_into_shards)
        return network

    def copied(self, network: nn.Module, recipe: Recipe, device: torch.device) -> nn.Module:
        """Return a copy of a network that `network` returned, sharded like it."""
        if self.mesh is None:
            return copy.deepcopy(network)
        clone = _shard(recipe, self.mesh, device)
        assert isinstance(clone, FSDPModule)
        clone.set_reshard_after_forward(True)  # a trained network keeps some weights gathered until its backward
        for target, source in zip(clone.state_dict().values(), network.state_dict().values(), strict=True):
            local_shard(target).copy_(local_shard(source))
        return clone

    def trained(self, network: nn.Module) -> nn.Module:
        """Return the module to train in the network's place, so that the ranks exchange gradients."""
        if self.mesh is not None or self.ranks == 1:
            return network
        module = DistributedDataParallel(network, gradient_as_bucket_view=True, **NO_BUFFERS)
        on_cpu = next(network.parameters()).device.type == "cpu"
        if self.ranks > 2 and (on_cpu or torch.are_deterministic_algorithms_enabled()):
            module.register_comm_hook(None, mean_in_rank_order)
        return module


def mean_in_rank_order(
    state: None,
    bucket: distributed.GradBucket,  # type: ignore[name-defined]  # torch compares the annotation
) -> torch.futures.Future[Tensor]:
    """Return the mean of a bucket's gradients over the ranks, added in the order of the ranks; a hook for DDP.

    Torch's sum over more than two ranks depends on a gradient's place in the bucket, and torch forms new buckets after
    the first step: a resumed run would differ from an uninterrupted one in the last bits.
    """
    mine = bucket.buffer()
    of_ranks = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(of_ranks, mine)
    mine.zero_()
    for gradients in of_ranks:
        mine += gradients
    mine /= len(of_ranks)
    result: torch.futures.Future[Tensor] = torch.futures.Future()
    result.set_result(mine)
    return result


def choose_parallelism(recipe: Recipe, world: World) -> Parallelism:
    """Select the mode by `train.parallel`; a collective operation.

    `auto` is FSDP if weights, gradients, optimizer state and EMAs would take more than half of the memory of some
    rank's GPU, else DDP. Ranks on CPUs use DDP, since they share the memory.
    """
    wanted = recipe.train.parallel
    if world.size == 1:
        return Parallelism(note="" if wanted == "auto" else f"train.parallel = {wanted!r} has no effect with one rank")
    if wanted == "auto":
        sharded, why = _too_large(recipe, world)
    else:
        sharded, why = wanted == "fsdp", f"train.parallel = {wanted!r}"
    if not sharded:
        return Parallelism(None, world.size, f"{world.size} ranks, weights replicated (DDP): {why}")
    mesh = _mesh(recipe.train, world)
    replicas, shards = world.size // mesh.shape[-1], mesh.shape[-1]
    layout = (
        f"weights sharded over {shards} ranks (FSDP)"
        if replicas == 1
        else f"weights sharded over {shards} ranks, in {replicas} replicas (HSDP)"
    )
    return Parallelism(mesh, world.size, f"{layout}: {why}")


def gradient_accumulation(network: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Let the ranks exchange gradients only in the last backward pass of a step.

    Until then, gradients of sharded weights are kept unsharded: as much memory as the full weights, no communication.
    """
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(last)
    elif isinstance(network, DistributedDataParallel) and not last:
        return network.no_sync()
    return nullcontext()


def release_reducer(network: nn.Module) -> None:
    """Remove DDP's reducer from a network, which then exchanges no gradients any more.

    Necessary before the process group is destroyed. If the reducer has the last reference to the group, torch waits for
    the group's threads while it holds the GIL, and one of them may need the GIL to free a tensor: a deadlock.
    """
    if isinstance(network, DistributedDataParallel):
        for name in ("logger", "reducer"):  # the first refers to the second
            setattr(network, name, None)


def is_sharded(network: nn.Module) -> bool:
    """Return whether a network's weights are sharded."""
    return isinstance(network, FSDPModule)


def _too_large(recipe: Recipe, world: World) -> tuple[bool, str]:
    """Return whether replicated weights are too large for some rank's GPU, and the comparison as text."""
    if world.device.type != "cuda":
        return False, f"ranks on a {world.device.type.upper()} share its memory"
    needed, available = state_bytes(recipe), torch.cuda.get_device_properties(world.device).total_memory
    why = f"weights, gradients, optimizer state and EMAs take {needed / 1e9:.3g} GB of a GPU's {available / 1e9:.3g} GB"
    return world.any(needs_sharding(recipe, available)), why


def _mesh(train: TrainRecipe, world: World) -> DeviceMesh:
    """Return a mesh of all ranks (FSDP), or of replicas by shards (HSDP)."""
    device, shards = world.device, train.shard_ranks or world.size
    if shards == world.size:
        return init_device_mesh(device.type, (shards,), mesh_dim_names=("shards",))
    return init_device_mesh(device.type, (world.size // shards, shards), mesh_dim_names=("replicas", "shards"))


def _shard(recipe: Recipe, mesh: DeviceMesh, device: torch.device) -> HourglassTransformer:
    """Return a sharded network whose weights are not initialized."""
    with torch.device("meta"):
        network = HourglassTransformer(recipe.model)
    network.register_forward_hook(_own_output)
    for module in network.modules():
        if isinstance(module, TransformerLayer):
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network.to_empty(device=device)


def _own_output(network: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    # FSDP gathers weights for the backward pass by a hook on the output, which an in-place write to a view loses
    return output.clone()
