"""`torch.compile` of the network: the layers, the persistent cache, and the compilation time."""

import os

import torch
from torch._dynamo.utils import cumulative_time_spent_ns

from hdit_core.files import cache_folder
from hdit_core.model.hourglass import HourglassTransformer

PHASES = ("entire_frame_compile", "entire_backward_compile")
MAX_COMPILATIONS = 256  # of all combinations of layers, shapes and modes; torch's default is 8


def compile_network(network: HourglassTransformer, backend: str = "inductor") -> None:
    """Compile the layers on first use, separately for each shape.

    Args:
        backend: of `torch.compile`. Inductor's results are stored in hdit's cache, or in `$TORCHINDUCTOR_CACHE_DIR`.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    torch._dynamo.config.recompile_limit = max(MAX_COMPILATIONS, torch._dynamo.config.recompile_limit)
    network.compile_layers(dynamic=False, backend=backend)


def compile_seconds() -> float:
    """Return the compilation time of this process so far, in seconds."""
    return sum(cumulative_time_spent_ns.get(phase, 0.0) for phase in PHASES) / 1e9
