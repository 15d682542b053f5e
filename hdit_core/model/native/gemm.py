"""The matrix product that torch itself calls on a CPU, for compiled passes that need one in their midst.

Taken from torch's own library, so that what they compute has the bits that torch's products have.
"""

import ctypes
from ctypes import c_void_p
from functools import lru_cache
from pathlib import Path

import torch

LIBRARY = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"


class Gemm(ctypes.Structure):
    """Addresses of two functions of MKL's: the product, and what limits its threads for the thread that calls it."""

    _fields_ = (("sgemm", c_void_p), ("limit", c_void_p))


@lru_cache(maxsize=1)
def find_gemm() -> Gemm | None:
    """Return where the functions are, or None where torch multiplies by another library."""
    if not torch.backends.mkl.is_available():
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        return Gemm(
            *(ctypes.cast(getattr(library, name), c_void_p) for name in ("sgemm_", "MKL_Set_Num_Threads_Local"))
        )
    except (OSError, AttributeError):
        return None
