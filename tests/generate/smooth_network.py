"""A network of small outputs with random weights, whose ODE is solved quickly."""

import torch

from hdit_core.checkpoint.safetensors_file import write_tensors
from hdit_core.model.hourglass import HourglassTransformer, initialize


def smooth_network(recipe):
    """Return the network of a recipe with random weights and small outputs."""
    network = HourglassTransformer(recipe.model)
    initialize(network, 3)
    torch.nn.init.normal_(network.patch_out.proj.weight, std=0.05, generator=torch.Generator().manual_seed(1))
    return network


def write_smooth_network(path, recipe):
    """Write such a network to a file, and return its path."""
    path.parent.mkdir(exist_ok=True)
    write_tensors(path, smooth_network(recipe).state_dict(), recipe.model_dump_json())
    return path
