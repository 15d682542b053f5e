"""What the tests of `hdit export` share: weights that all show, and exports with small settings."""

import torch

from hdit_core.generate.export.export import ExportSettings, export
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.randomness import stream


def random_state(recipe):
    """Random weights everywhere."""
    network = HourglassTransformer(recipe.model)
    for name, tensor in network.state_dict().items():
        values = torch.from_numpy(stream(0, name, 0).standard_normal(tensor.shape, "float32") * 0.2)
        tensor.copy_(values.abs() if "scale" in name else values)
    return network.state_dict()


def exported(run, to, **settings):
    return export(run, to, ExportSettings(**{"num_samples": 3, "device": "cpu"} | settings))
