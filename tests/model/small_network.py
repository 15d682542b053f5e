"""Networks that are small and show every path."""

import torch

from hdit_core.model.hourglass import initialize
from hdit_core.recipe.model import ModelRecipe


def level(depth, width, attention, head_dim=16, **keys):
    return {"depth": depth, "width": width, "attention": attention, "head_dim": head_dim, **keys}


def recipe(**changes):
    levels = (
        level(2, 32, "neighborhood", kernel_size=3),
        level(1, 48, "none"),
        level(2, 64, "shifted-window", window_size=2),
        level(1, 64, "global"),
    )
    small = {"image_size": (64, 32), "patch_size": (2, 2), "levels": levels, "mapping_width": 32}
    return ModelRecipe(**(small | changes))


def awake(network, seed=0):
    """Initialize, with small numbers in place of zeros, so that every path has an effect."""
    initialize(network, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if (parameter == 0).all():
            parameter.data.normal_(0, 0.1, generator=generator)
    return network


def inputs(network, batch=3, image_size=None, dtype=torch.float32):
    """Random arguments of `forward`, all of them that the network takes."""
    model, generator = network.recipe, torch.Generator().manual_seed(batch)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    given = {
        "x": normal(batch, model.channels, *(image_size or model.image_size)),
        "sigma": torch.rand(batch, generator=generator, dtype=dtype) * 5 + 0.01,
        "augment_cond": normal(batch, 9),
    }
    if model.num_classes:
        given["class_ids"] = torch.randint(0, model.num_classes + 1, (batch,), generator=generator)
    if model.mapping_cond_dim:
        given["mapping_cond"] = normal(batch, model.mapping_cond_dim)
    if model.condition_channels:
        given["condition"] = normal(batch, model.condition_channels, *(image_size or model.image_size))
    return given
