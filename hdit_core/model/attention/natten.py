"""Neighborhood attention by NATTEN (https://natten.org), on CUDA: the fastest there is on such a GPU.

Its `functional.na2d` of 0.20 and later takes our layout as it is; `has_fused_na`, `na2d_qk` and `na2d_av` of before
are gone. NATTEN picks the kernel itself: on compute capability 9.0 `hopper-fna`, on 10.0 and 10.3 `blackwell-fna`, for
16-bit numbers and the head dimensions that each knows; else `cutlass-fna`, from 6.0 on, for float32 too and any
multiple of 8.
"""

import importlib
import inspect
import re
from typing import Any

import torch
from torch import Tensor

from hdit_core.model.attention.interface import KernelTarget
from hdit_core.model.attention.self_test import self_test

OLDEST = (0, 20)
SOUND = (0, 21, 7)  # before, the backward pass of `cutlass-fna` could give NaN for v, and strides overflowed 32 bits
TRACEABLE = (0, 21, 5)  # torch.compile goes through it from here on
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
EAGER_FLEX = "flex-fna"  # its last resort, FlexAttention that is not compiled: ours is


def version(module: Any) -> tuple[int, ...]:
    """Return NATTEN's version as numbers: `"0.21.7+torch2130cu130"` is (0, 21, 7)."""
    return tuple(int(number) for number in re.findall(r"\d+", module.__version__.partition("+")[0])[:3])


def unavailable(target: KernelTarget) -> str | None:
    """Return what is missing for it at a CUDA device, None where it can run."""
    try:
        module = importlib.import_module("natten")
        importlib.import_module("natten.functional")
    except ModuleNotFoundError as problem:
        if problem.name == "natten":
            return "natten is not installed (https://natten.org/install)"
        return f"natten does not import: {problem}"
    except Exception as problem:  # a build for another torch fails in many ways
        said = (str(problem).strip().splitlines() or ["no message"])[0]
        return f"natten does not import: {type(problem).__name__}: {said[:200]}; install the build for this torch"
    if missing := _unfit(module, target):
        return f"natten {module.__version__} {missing}"
    return None


def _unfit(module: Any, target: KernelTarget) -> str | None:
    if version(module) < OLDEST:
        return "is too old; 0.20 or later is needed"
    if not getattr(module, "HAS_LIBNATTEN", True):
        return "was built without its CUDA kernels (libnatten); install the build for this torch and CUDA"
    if target.dtype not in DTYPES:
        return f"takes float16, bfloat16 and float32, found {target.dtype_name}"
    picked = kernel(module, target)
    if picked in (None, EAGER_FLEX):
        return f"has no kernel for {target.device_name}, {target.dtype_name}, head_dim = {target.head_dim}"
    if picked == "cutlass-fna" and version(module) < SOUND:
        return "can give NaN gradients by cutlass-fna, the kernel that it picks here; 0.21.7 or later is needed"
    return self_test(attend, target)


def kernel(module: Any, target: KernelTarget) -> str | None:
    """Return the kernel that NATTEN picks when training at a target, None where it has none."""
    probe = torch.empty(1, 8, 8, 1, target.head_dim, device=target.device, dtype=target.dtype, requires_grad=True)
    choose = importlib.import_module("natten.backends").choose_backend
    tensors = len(inspect.signature(choose).parameters) - 1  # one of them in 0.20.0; q, k and v later
    try:
        return str(choose(*[probe] * tensors, torch_compile=False))
    except NotImplementedError:
        return None


def describe(target: KernelTarget) -> str:
    """Return its name for the log, as in `natten 0.21.7 hopper-fna (CUDA 9.0)`."""
    module = importlib.import_module("natten")
    name = f"natten {module.__version__} {kernel(module, target)} ({target.device_name})"
    return name if _traceable() else f"{name}, which torch.compile passes by; it goes through 0.21.5 and later"


@torch.compiler.assume_constant_result
def _traceable() -> bool:
    return version(importlib.import_module("natten")) >= TRACEABLE


def _na2d(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    from natten.functional import na2d

    attended: Tensor = na2d(q, k, v, kernel_size=kernel_size, scale=1.0)
    return attended


_untraced_na2d = torch.compiler.disable(_na2d)


def attend(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    """Attend as `neighborhood_attention` says, `[B, H, W, N, D]`; the arguments are already checked."""
    return _na2d(q, k, v, kernel_size) if _traceable() else _untraced_na2d(q, k, v, kernel_size)
