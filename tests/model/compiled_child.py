"""Compile a small network in named ways and print how each went.

A process of its own: the tests' type checker breaks traces.
"""

import json
import sys
from contextlib import nullcontext

import torch
from torch._dynamo.testing import CompileCounterWithBackend

from hdit_core.model.hourglass import HourglassTransformer
from tests.model.small_network import awake, inputs, level, recipe

LEVELS = (
    level(1, 16, "neighborhood", head_dim=8, kernel_size=3),
    level(1, 16, "shifted-window", head_dim=8, window_size=4),
    level(2, 32, "global", head_dim=8),
)


def outputs_and_gradients(network, given, dtype):
    network.zero_grad()
    with torch.autocast("cpu", dtype) if dtype else nullcontext():
        result = network(**given)
    result.square().mean().backward()
    return [result.detach(), *(parameter.grad for parameter in network.parameters())]


def relative_error(levels, activation_checkpointing=0, dtype=None, **options):
    """Return the largest distance between what the compiled network gives and the plain one, relative to that."""
    torch._dynamo.reset()
    network = awake(HourglassTransformer(recipe(levels=levels, **options)))
    given = inputs(network)
    expected = outputs_and_gradients(network, given, dtype)
    network.activation_checkpointing = activation_checkpointing
    network.compile_layers(backend="aot_eager", dynamic=False)  # fullgraph: a break is an error
    found = outputs_and_gradients(network, given, dtype)
    return max(((x - y).norm() / y.norm()).item() for x, y in zip(found, expected, strict=True))


def graphs():
    """Return how many graphs a forward pass is traced to."""
    torch._dynamo.reset()
    network = awake(HourglassTransformer(recipe(levels=LEVELS)))
    counter = CompileCounterWithBackend("eager")
    network.compile_layers(backend=counter, dynamic=False)
    with torch.no_grad():
        network(**inputs(network))
    return counter.frame_count


REPORTS = {
    "float32, the outermost level computed again": lambda: relative_error(LEVELS, activation_checkpointing=1),
    "autocast": lambda: relative_error(LEVELS[2:], dtype=torch.bfloat16),
    "options": lambda: relative_error(LEVELS[2:], feed_forward="gelu", norm="layer"),
    "graphs": graphs,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump({name: REPORTS[name]() for name in sys.argv[1:]}, sys.stdout)
