"""Small conditional networks with random weights, as files, and pictures for them."""

import numpy as np
import torch
from PIL import Image

from hdit_core.checkpoint.safetensors_file import write_tensors
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.recipe.read import check_recipe

LEVELS = [
    {"depth": 1, "width": 16, "head_dim": 8, "attention": "neighborhood", "kernel_size": 3},
    {"depth": 1, "width": 32, "head_dim": 16, "attention": "global"},
]


def tables(degrade=(), condition_channels=3, channels=3, data=(), condition=(), train=(), **model):
    """The tables of a recipe for 16 x 24 pixels."""
    network = {"image_size": [16, 24], "patch_size": 2, "mapping_width": 32, "mapping_depth": 1, "levels": LEVELS}
    return {
        "model": network | {"channels": channels, "condition_channels": condition_channels} | model,
        "data": dict(data),
        "condition": {"degrade": list(degrade)} | dict(condition),
        "train": {"num_images": 96, "batch_size": 8} | dict(train),
        "sample": {"steps": 3, "sigma_max": 80.0, "batch_size": 4, "sampler": "euler"},
    }


def write_network(path, degrade=(), condition_channels=3, **model):
    """Write a network with random weights to a file, and return it."""
    recipe = check_recipe(tables(degrade, condition_channels, **model), "test")
    module, numbers = HourglassTransformer(recipe.model), torch.Generator().manual_seed(1)
    initialize(module, 3)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if key.endswith("weight"):  # which begin at zero where they lead out of a block
                parameter += 0.05 * torch.randn(parameter.shape, generator=numbers)
    write_tensors(path, module.state_dict(), recipe.model_dump_json())
    return path


def write_pictures(folder, names, size=(16, 24), seed=0):
    """Write color images of some names and a size to a folder, and return it."""
    numbers = np.random.default_rng(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (*size, 3)).astype(np.uint8)).save(path)
    return folder
