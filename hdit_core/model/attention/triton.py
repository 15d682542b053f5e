"""Neighborhood attention with hdit's Triton kernels (`model/triton/`) on CUDA and ROCm devices."""

import importlib
import re
from typing import Any

import torch
from torch import Tensor

from hdit_core.model.attention.interface import KernelTarget
from hdit_core.model.attention.self_test import self_test
from hdit_core.model.triton.configuration import DTYPES, LARGEST_HEAD_DIM

MIN_VERSION = (3, 6)  # the oldest version that the kernels were compiled with
MIN_CAPABILITY = (8, 0)


def unavailable(target: KernelTarget) -> str | None:
    """Return why the kernels cannot run on a CUDA or ROCm target, or None if they can."""
    try:
        triton = importlib.import_module("triton")
    except ImportError:
        return "Triton is not installed; CUDA builds of torch include it on Linux"
    if missing := _unfit(triton, target):
        return missing
    failure = self_test(attend, target)
    return failure and f"Triton {triton.__version__} {failure}"


def _unfit(triton: Any, target: KernelTarget) -> str | None:
    if tuple(int(number) for number in re.findall(r"\d+", triton.__version__)[:2]) < MIN_VERSION:
        return f"Triton {triton.__version__} is too old; {'.'.join(map(str, MIN_VERSION))} or later is needed"
    if target.dtype not in DTYPES:
        return f"the Triton kernels support float16, bfloat16 and float32, found {target.dtype_name}"
    if target.head_dim > LARGEST_HEAD_DIM:
        return f"the Triton kernels support head_dim up to {LARGEST_HEAD_DIM}, found {target.head_dim}"
    if not torch.version.hip and torch.cuda.get_device_capability(target.device) < MIN_CAPABILITY:
        return f"the Triton kernels need compute capability 8.0 or later, found {target.device_name}"
    return None


def describe(target: KernelTarget) -> str:
    """Return the backend's name in the log."""
    return f"Triton {importlib.import_module('triton').__version__} kernels of hdit ({target.device_name})"


def attend(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    """Return neighborhood attention `[B, H, W, N, D]`; see `neighborhood_attention`, which checks the arguments."""
    from hdit_core.model.triton.attention import triton_attention

    return triton_attention(q, k, v, kernel_size)
