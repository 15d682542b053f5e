"""Neighborhood attention with NATTEN (https://natten.org) on CUDA.

NATTEN selects its kernel itself: `hopper-fna` on compute capability 9.0 and `blackwell-fna` on 10.0 and 10.3, each for
16-bit dtypes and certain head dimensions; otherwise `cutlass-fna`, from capability 6.0 on, also for float32 and for any
head dimension that is a multiple of 8.

Versions before 0.21.7 are not used: `cutlass-fna` could give NaN gradients of v and strides overflowed 32 bits, and
before 0.21.5 torch.compile could not trace it.
"""

import importlib
import re
from typing import Any

import torch
from torch import Tensor

from hdit_core.model.attention.interface import KernelTarget
from hdit_core.model.attention.self_test import self_test

MIN_VERSION = (0, 21, 7)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
EAGER_FLEX = "flex-fna"  # its fallback, uncompiled FlexAttention; the flex backend compiles it


def version(module: Any) -> tuple[int, ...]:
    """Return NATTEN's version as a tuple: (0, 21, 7) for `"0.21.7+torch2130cu130"`."""
    return tuple(int(number) for number in re.findall(r"\d+", module.__version__.partition("+")[0])[:3])


def unavailable(target: KernelTarget) -> str | None:
    """Return why NATTEN cannot run on a CUDA target, or None if it can."""
    try:
        module = importlib.import_module("natten")
        importlib.import_module("natten.functional")
    except ModuleNotFoundError as problem:
        if problem.name == "natten":
            return "natten is not installed (https://natten.org/install)"
        return f"natten cannot be imported: {problem}"
    except Exception as problem:  # a build for another torch fails in many ways
        message = (str(problem).strip().splitlines() or ["no message"])[0]
        return f"natten cannot be imported: {type(problem).__name__}: {message[:200]}; install the build for this torch"
    if missing := _unfit(module, target):
        return f"natten {module.__version__} {missing}"
    return None


def _unfit(module: Any, target: KernelTarget) -> str | None:
    if version(module) < MIN_VERSION:
        return "is too old; 0.21.7 or later is needed"
    if not getattr(module, "HAS_LIBNATTEN", True):
        return "was built without its CUDA kernels (libnatten); install the build for this torch and CUDA"
    if target.dtype not in DTYPES:
        return f"supports float16, bfloat16 and float32, found {target.dtype_name}"
    selected = kernel(module, target)
    if selected in (None, EAGER_FLEX):
        return f"has no kernel for {target.device_name}, {target.dtype_name}, head_dim = {target.head_dim}"
    return self_test(attend, target)


@torch.inference_mode(False)
def kernel(module: Any, target: KernelTarget) -> str | None:
    """Return the kernel that NATTEN selects for training on a target, or None if it has none."""
    probe = torch.empty(1, 8, 8, 1, target.head_dim, device=target.device, dtype=target.dtype, requires_grad=True)
    choose = importlib.import_module("natten.backends").choose_backend
    try:
        return str(choose(probe, probe, probe, torch_compile=False))
    except NotImplementedError:
        return None


def describe(target: KernelTarget) -> str:
    """Return the backend's name in the log, such as `natten 0.21.7 hopper-fna (CUDA 9.0)`."""
    module = importlib.import_module("natten")
    return f"natten {module.__version__} {kernel(module, target)} ({target.device_name})"


def attend(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    """Return neighborhood attention `[B, H, W, N, D]`; see `neighborhood_attention`, which checks the arguments."""
    from natten.functional import na2d

    attended: Tensor = na2d(q, k, v, kernel_size=kernel_size, scale=1.0)
    return attended
