"""`torch.compile`: what is compiled, where the results are kept for the next run, and how long it took."""

import os

import torch
from torch._dynamo.utils import cumulative_time_spent_ns

from hdit_core.files import cache_folder
from hdit_core.model.hourglass import HourglassTransformer

PHASES = ("entire_frame_compile", "entire_backward_compile")
MOST_KINDS = 256  # of layers, shapes and modes together; torch gives up at 8 of its own accord


def compile_network(network: HourglassTransformer, backend: str = "inductor") -> None:
    """Let the layers be compiled as they are first used, each shape by itself.

    Args:
        backend: of `torch.compile`. Inductor's results are kept in hdit's cache, or in `$TORCHINDUCTOR_CACHE_DIR`.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    torch._dynamo.config.recompile_limit = max(MOST_KINDS, torch._dynamo.config.recompile_limit)
    network.compile_layers(dynamic=False, backend=backend)


def compile_seconds() -> float:
    """Return for how long this process has compiled so far."""
    return sum(cumulative_time_spent_ns.get(phase, 0.0) for phase in PHASES) / 1e9
