"""The C++ kernels of `model/native/` as an attention backend."""

import torch

from hdit_core.devices import at_least_float32
from hdit_core.model.attention.interface import KernelTarget
from hdit_core.model.native import attention

attend = attention.native_attention


def unavailable(target: KernelTarget) -> str | None:
    """Return why the kernels cannot be compiled or loaded on this machine, or None; the first call compiles them."""
    return attention.unavailable(at_least_float32(target.dtype))


def describe(target: KernelTarget) -> str:
    """Return the backend's name in the log, with the CPU capability that torch reports."""
    return f"native C++ ({target.device_name}, {torch.backends.cpu.get_cpu_capability()})"
