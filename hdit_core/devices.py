"""The device of the computation, and its precision."""

import ctypes
import os

import torch

from hdit_core.errors import UsageError

# parameters of mallopt (glibc's malloc.h): the size above which allocations are mapped separately, and when free memory
# goes back to the system
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1


def pick_device(name: str = "auto") -> torch.device:
    """Return a device by name; `"auto"` picks a GPU if there is one, `"cuda:1"` one of several, which becomes current.

    Raises:
        UsageError: this machine has no such device.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind]))
    kind, _, index = name.partition(":")
    if not present.get(kind, False) or (index and not index.isdigit()):
        available = ", ".join(kind for kind in present if present[kind])
        raise UsageError(f"--device {name}: this machine has no such device; available: {available}")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices")
    if kind == "cuda" and index:
        torch.cuda.set_device(int(index))  # streams, events and graphs belong to the current device
    return torch.device(name)


def require_float64(device: torch.device, what: str) -> None:
    """Refuse a device without float64.

    Args:
        device: of a computation.
        what: the computation, in the message.

    Raises:
        UsageError: the device is an Apple GPU.
    """
    if device.type == "mps":
        raise UsageError(f"--device {device}: {what} needs float64, which Apple GPUs do not have; use --device cpu")


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the model's matrix products for `train.precision` on a device.

    `"auto"` is bfloat16 on GPUs that multiply it (Ampere and later) and float32 elsewhere: older GPUs emulate it, and
    CPUs without matrix units for it are several times slower.
    """
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which matrix products run in `dtype`; it does nothing for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def disable_tf32() -> None:
    """Compute float32 products on GPUs in full precision: TF32, torch's default in cuDNN, rounds to 11 bits."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def precision_of(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return a description of the precision on a GPU for a log, None on other devices.

    Args:
        device: of the computation, after `disable_tf32`.
        dtype: of matrix products.
    """
    if device.type != "cuda":
        return None
    products = "bfloat16 for matrix products, otherwise " if dtype == torch.bfloat16 else ""
    return f"{products}float32 without TF32"


def copy_to(device: torch.device, tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return a tensor on a device; on CUDA without waiting for earlier operations, as torch does by default."""
    return tensor.to(device, dtype, non_blocking=device.type == "cuda")


def synchronize(device: torch.device) -> None:
    """Wait until a device has completed all operations."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def tune_malloc() -> bool:
    """Make the C library reuse the memory of freed CPU tensors; return whether the settings were accepted.

    By default it returns large blocks to the system and requests them again, and the system clears each page every
    time. Peak memory grows only by fragmentation. C libraries other than glibc are left alone.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    return bool(library.mallopt(MMAP_THRESHOLD, 1 << 30) and library.mallopt(TRIM_THRESHOLD, -1))


def make_mkl_reproducible() -> None:
    """Make the results of MKL, torch's matrix library on x86, independent of the number of threads.

    By default MKL splits long sums of few rows among threads, so that the last bits of an image depend on the number of
    threads and on the batch size. MKL reads the setting once, at the first matrix product of the process; later calls
    have no effect. A value that the user has set (MKL_CBWR) stays.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of noise levels and statistics for tensors of `dtype`: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)
