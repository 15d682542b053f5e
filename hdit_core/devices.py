"""Where the numbers are worked out, and in which precision."""

import ctypes
import os

import torch

from hdit_core.errors import UsageError

CHOICES = ("auto", "cpu", "cuda", "mps")

# of glibc's malloc.h: from which size on memory comes from the system by itself, and when unused memory is given back
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1


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


def tune_malloc() -> bool:
    """Let the C library keep the memory that tensors on the CPU free for the next ones; return whether it will.

    Else it hands large pieces back and asks for them anew, and the system clears each page every time. The process
    never needs more for it than at its peak, but for what lies scattered in pieces. C libraries other than
    glibc do as they always do.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    return bool(library.mallopt(MMAP_THRESHOLD, 1 << 30) and library.mallopt(TRIM_THRESHOLD, -1))


def make_mkl_reproducible() -> None:
    """Have MKL, who multiplies torch's matrices on x86, add up in one order however many threads share the work.

    Else it cuts long sums of few rows into a part for each thread, and an image's last bits depend on the threads and
    on how many images are in its batch. MKL asks for this once, at the process's first product: later calls come too
    late, and a choice of the user's own (MKL_CBWR) holds.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which statistics are taken: float32, or float64 where the activations are."""
    return torch.promote_types(dtype, torch.float32)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which noise levels and statistics beside tensors of `dtype` are computed."""
    return torch.promote_types(dtype, torch.float32)
