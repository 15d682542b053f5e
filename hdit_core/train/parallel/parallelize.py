"""How several ranks train one network: each with all of its weights (DDP), or each with a part of them (FSDP2, HSDP).

Whichever it is, weights begin as the same bits, images and noise are the same, and checkpoints are whole: a run may go
on with another number of ranks, or in another way. Products are rounded alike too: parts are put together as float32,
and `autocast` rounds products as `train.precision` says.
"""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from hdit_core.distributed import World
from hdit_core.model.blocks import TransformerLayer
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.plan.sharding import state_bytes, too_large_for_each
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.train import TrainRecipe
from hdit_core.train.parallel.sharded_tensors import copy_into_shards, local_shard

# the network's buffers are constants, the same on all ranks, and need not be sent at every step; torch renames it
_SYNC_BUFFERS = ("forward_sync_buffers", "broadcast_buffers")
NO_BUFFERS: dict[str, Any] = {
    next(name for name in _SYNC_BUFFERS if name in signature(DistributedDataParallel).parameters): False
}


@dataclass(frozen=True)
class Parallelism:
    """What several ranks share.

    Attributes:
        mesh: the ranks that have the parts of the weights between them; None: each rank has all.
        ranks: how many there are.
        note: a line for the user that says so, with the reason; empty where there is nothing to say.
    """

    mesh: DeviceMesh | None = None
    ranks: int = 1
    note: str = ""

    def network(self, recipe: Recipe, device: torch.device) -> HourglassTransformer:
        """Return a recipe's network with its initial weights, the same bits in whichever parts they are held."""
        if self.mesh is None:
            network = HourglassTransformer(recipe.model)
            initialize(network, recipe.train.seed)
            return network.to(device)
        network = _shard(recipe, self.mesh, device)
        initialize(network, recipe.train.seed, copy_into_shards)
        return network

    def copied(self, network: nn.Module, recipe: Recipe, device: torch.device) -> nn.Module:
        """Return a network with the weights of one that `network` made, held in the same parts."""
        if self.mesh is None:
            return copy.deepcopy(network)
        twin = _shard(recipe, self.mesh, device)
        assert isinstance(twin, FSDPModule)
        twin.set_reshard_after_forward(True)  # a network that is trained keeps some parts whole until its backward
        for target, source in zip(twin.state_dict().values(), network.state_dict().values(), strict=True):
            local_shard(target).copy_(local_shard(source))
        return twin

    def trained(self, network: nn.Module) -> nn.Module:
        """Return what is trained in the network's place, so that the ranks exchange gradients."""
        if self.mesh is not None or self.ranks == 1:
            return network
        return DistributedDataParallel(network, gradient_as_bucket_view=True, **NO_BUFFERS)


def choose_parallelism(recipe: Recipe, world: World, device: torch.device) -> Parallelism:
    """Decide by `train.parallel` what the ranks share; all of them have to call it.

    `auto` is DDP, but FSDP where weights, gradients, optimizer state and averages would take more than half of the
    memory of some rank's GPU. Ranks on CPUs have DDP: what they do not share of the network, they share of the memory.
    """
    wanted = recipe.train.parallel
    if world.size == 1:
        return Parallelism(note="" if wanted == "auto" else f"train.parallel = {wanted!r} waits for a second rank")
    if wanted == "auto":
        in_parts, why = _too_large(recipe, world, device)
    else:
        in_parts, why = wanted == "fsdp", f"train.parallel = {wanted!r}"
    if not in_parts:
        return Parallelism(None, world.size, f"{world.size} ranks, each with all weights (DDP): {why}")
    mesh = _mesh(recipe.train, world, device)
    copies, parts = world.size // mesh.shape[-1], mesh.shape[-1]
    shared = (
        f"{parts} ranks share the weights" if copies == 1 else f"{copies} x {parts} ranks, {parts} share the weights"
    )
    return Parallelism(mesh, world.size, f"{shared} (FSDP): {why}")


def gradient_accumulation(network: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Let the ranks exchange gradients in the last backward of a step only.

    Until then, gradients of weights in parts are kept whole: as much memory as the weights take, and nothing is sent.
    """
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(last)
    elif isinstance(network, DistributedDataParallel) and not last:
        return network.no_sync()
    return nullcontext()


def release_reducer(network: nn.Module) -> None:
    """Take from a network what it exchanges gradients with; it does so no more.

    Ranks have to before they leave their world. If the reducer is the last to know the ranks' group, torch waits for
    the group's threads with Python's lock held: one of them that still wants it, to free a tensor, never ends.
    """
    if isinstance(network, DistributedDataParallel):
        for name in ("logger", "reducer"):  # the first knows the second
            setattr(network, name, None)


def is_sharded(network: nn.Module) -> bool:
    """Return whether no rank can use a network without the others."""
    return isinstance(network, FSDPModule)


def _too_large(recipe: Recipe, world: World, device: torch.device) -> tuple[bool, str]:
    """Return whether all weights and what goes with them are too much for some rank's GPU, and what was compared."""
    if device.type != "cuda":
        return False, f"ranks on a {device.type.upper()} share its memory anyway"
    needed, there_is = state_bytes(recipe), torch.cuda.get_device_properties(device).total_memory
    why = f"weights and what goes with them take {needed / 1e9:.3g} GB, of a GPU's {there_is / 1e9:.3g} GB"
    return world.any(too_large_for_each(recipe, there_is)), why


def _mesh(train: TrainRecipe, world: World, device: torch.device) -> DeviceMesh:
    """Return one dimension of ranks where all of them share one copy, else copies by ranks that share one."""
    parts = train.shard_ranks or world.size
    if parts == world.size:
        return init_device_mesh(device.type, (parts,), mesh_dim_names=("parts",))
    return init_device_mesh(device.type, (world.size // parts, parts), mesh_dim_names=("copies", "parts"))


def _shard(recipe: Recipe, mesh: DeviceMesh, device: torch.device) -> HourglassTransformer:
    """Return a network of whose tensors each rank has memory for its part, and that nobody has filled yet."""
    with torch.device("meta"):
        network = HourglassTransformer(recipe.model)
    network.register_forward_hook(_own_output)
    for module in network.modules():
        if isinstance(module, TransformerLayer):
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network.to_empty(device=device)


def _own_output(network: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    # FSDP fetches the weights for the backward pass when the output's gradient comes; writing into a view would undo it
    return output.clone()
