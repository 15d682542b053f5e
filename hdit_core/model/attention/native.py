"""The compiled program of `native/` as one of the backends."""

import torch

from hdit_core.devices import at_least_float32
from hdit_core.model.attention.interface import KernelTarget
from hdit_core.model.native import attention

attend = attention.native_attention


def unavailable(target: KernelTarget) -> str | None:
    """Return why it cannot be compiled or loaded on this machine, None where it can; the first call compiles it."""
    return attention.unavailable(at_least_float32(target.dtype))


def describe(target: KernelTarget) -> str:
    """Return its name for the log, with what torch says of the processor."""
    return f"native C++ ({target.device_name}, {torch.backends.cpu.get_cpu_capability()})"
