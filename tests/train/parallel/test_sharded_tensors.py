"""Sharded tensors are gathered on the main rank's host one by one, and scattered again."""

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hdit_core.distributed import World, init_ranks
from hdit_core.train.parallel.sharded_tensors import (
    copy_into_shards,
    distribute_into,
    full_tensors_on_cpu,
    local_shard,
    shard_like,
)
from tests.train.ranks import on_ranks


def tensors():
    """Return tensors of which some have fewer rows than there are ranks, and some a number that does not divide."""
    return {"weight": torch.arange(35.0).view(5, 7), "bias": torch.arange(5.0) + 100, "mix": torch.tensor([7.0])}


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        for name, tensor in tensors().items():
            self.register_parameter(name, nn.Parameter(tensor.clone()))
        self.register_buffer("table", torch.ones(3))


def gather_and_distribute(mesh_shape):
    world, network = init_ranks("cpu"), Small()
    fully_shard(
        network, mesh=init_device_mesh("cpu", mesh_shape, mesh_dim_names=("copies", "parts")[-len(mesh_shape) :])
    )
    whole = full_tensors_on_cpu(network.state_dict(), world)
    named = dict(network.named_parameters())
    rows = local_shard(named["weight"]).shape[0]
    distribute_into(named, {name: -tensor for name, tensor in tensors().items()})
    moment = shard_like(torch.ones(5, 7), named["weight"])
    count = shard_like(torch.tensor(3.0), named["weight"])
    seen = (
        rows,
        local_shard(moment).shape[0],
        local_shard(moment).untyped_storage().nbytes() // 28,
        type(count).__name__,
    )
    back = full_tensors_on_cpu(named, world)
    world.destroy_ranks()
    return whole, back, seen


def test_whole_tensors_are_gathered_on_the_main_rank_and_scattered_to_shards():
    for mesh_shape in ((2,), (1, 2)):
        (whole, back, main), (nothing, none_back, other) = on_ranks(2, gather_and_distribute, mesh_shape)
        assert nothing == none_back == {}
        assert whole.keys() == tensors().keys() | {"table"}
        for name, tensor in tensors().items():
            assert torch.equal(whole[name], tensor) and torch.equal(back[name], -tensor)
        assert main == (3, 3, 3, "Tensor") and other == (2, 2, 2, "Tensor")


def test_a_host_copy_does_not_change_with_the_tensor():
    source = {"x": torch.arange(6.0).view(2, 3).T}
    copies = full_tensors_on_cpu(source, World())
    source["x"].zero_()
    assert torch.equal(copies["x"], torch.arange(6.0).view(2, 3).T) and copies["x"].is_contiguous()


def test_unsharded_tensors_are_copied_unchanged():
    target = torch.zeros(2, 3)
    copy_into_shards(target, torch.ones(2, 3))
    assert bool(target.all()) and shard_like(torch.ones(2), target).tolist() == [1, 1]
