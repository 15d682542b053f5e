"""A rank of test_sharded.py: prints the gradients of a layer with the Triton operator, sharded over all ranks."""

import json
import sys

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hdit_core.distributed import init_ranks
from hdit_core.model.triton.attention import triton_attention

KERNEL_SIZE, HEADS, WIDTH = 3, 2, 32


class Layer(nn.Module):
    """Queries, keys and values of an image, and their attention."""

    def __init__(self, attend):
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out, self.attend = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), attend

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).unbind(3)
        return self.out(self.attend(q, k, v, KERNEL_SIZE).flatten(-2))


def images(rank):
    """Return the images of a rank."""
    return torch.randn(1, 5, 7, WIDTH, generator=torch.Generator().manual_seed(rank))


def main():
    with init_ranks("cpu") as world:
        layer = fully_shard(Layer(triton_attention), mesh=init_device_mesh("cpu", (world.size,)))
        layer(images(world.rank)).square().sum().backward()
        whole = {name: parameter.grad.full_tensor().tolist() for name, parameter in layer.named_parameters()}
    print(json.dumps(whole))


if __name__ == "__main__":
    sys.exit(main())
