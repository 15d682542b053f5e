"""`torch.compile` of the network: the layers, the persistent cache, and the compilation time."""

import os
from importlib import import_module
from importlib.util import find_spec

import torch
from torch._dynamo.utils import cumulative_time_spent_ns

from hdit_core.files import cache_folder
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.train import TrainRecipe

PHASES = ("entire_frame_compile", "entire_backward_compile")
WORTH_STEPS = 2_000  # fewest training steps of a run for which minutes of compilation pay off
MAX_COMPILATIONS = 256  # of all combinations of layers, shapes and modes; torch's default is 8


def reason_to_compile(train: TrainRecipe, device: torch.device) -> str | None:
    """Return why a run's network is compiled, None if it is not.

    With `train.compile = "auto"` it is compiled on CUDA and ROCm devices with Triton, for runs of at least
    `WORTH_STEPS` steps, unless deterministic algorithms are required and this torch cannot compile deterministically.
    The length of the whole run counts, so that a resumed run decides the same.
    """
    if train.compile != "auto":
        return "train.compile = true" if train.compile else None
    steps = train.num_images // train.batch_size
    if device.type != "cuda" or steps < WORTH_STEPS or find_spec("triton") is None:
        return None
    if torch.are_deterministic_algorithms_enabled() and not compiles_deterministically():
        return None
    return f"{steps:,} steps on a GPU, train.compile = 'auto'"


def compiles_deterministically() -> bool:
    """Return whether torch's compiler can be kept from choosing kernels by their speed."""
    return hasattr(import_module("torch._inductor.config"), "deterministic")


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
