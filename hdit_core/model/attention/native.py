"""The compiled program of `native/` as one of the backends."""

import torch

from hdit_core.devices import wide
from hdit_core.model.attention.interface import Place
from hdit_core.model.native import attention

attend = attention.native_attention


def unavailable(place: Place) -> str | None:
    """Return why it cannot be compiled or loaded on this machine, None where it can; the first call compiles it."""
    return attention.unavailable(wide(place.dtype))


def describe(place: Place) -> str:
    """Return its name for the log, with what torch says of the processor."""
    return f"native C++ ({place.device_name}, {torch.backends.cpu.get_cpu_capability()})"
