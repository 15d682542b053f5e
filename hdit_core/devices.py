"""Where the numbers are worked out, and in which precision."""

import torch

from hdit_core.errors import UsageError

CHOICES = ("auto", "cpu", "cuda", "mps")


def pick_device(name: str = "auto") -> torch.device:
    """Return the device of that name; `"auto"` takes a GPU where there is one. `"cuda:1"` names one of several.

    Raises:
        UsageError: there is no such device here.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind]))
    kind, _, place = name.partition(":")
    if not present.get(kind, False) or (place and not place.isdigit()):
        found = ", ".join(kind for kind in present if present[kind])
        raise UsageError(f"--device {name}: no such device here; there is {found}")
    if kind == "cuda" and place and int(place) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the network's products for `train.precision` on a device.

    `"auto"` is bfloat16 on GPUs that have it and float32 elsewhere: on CPUs without matrix units for it, products in
    bfloat16 are several times slower.
    """
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which products run in `dtype`; for float32 it changes nothing."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
