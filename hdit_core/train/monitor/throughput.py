"""Throughput in FLOP/s, and peak memory."""

import resource
import sys
from functools import lru_cache

import torch

from hdit_core.flops.count import FLOPS_PER_MAC, FORWARD_AND_BACKWARD, count
from hdit_core.plan.gpu_specs import GPUS
from hdit_core.recipe.model import ModelRecipe


@lru_cache(maxsize=256)
def image_flops(model: ModelRecipe, image_size: tuple[int, int]) -> int:
    """Return the floating-point operations of training on one image of a size (height, width).

    Only the model's own operations count: not those that activation checkpointing repeats.
    """
    return FORWARD_AND_BACKWARD * FLOPS_PER_MAC * count(model, image_size).macs


def datasheet_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """Return the peak FLOP/s of a GPU's data sheet; None if it is not in the table.

    Args:
        device_name: as from `torch.cuda.get_device_name`, such as `"NVIDIA H100 80GB HBM3"`.
        dtype: of the operands; only bfloat16 is in the table.
    """
    words = device_name.lower().replace("geforce rtx ", "rtx").replace("rtx a6000", "a6000").replace("-", " ").split()
    known = [gpu for name, gpu in GPUS.items() if set(name.split("-")) <= set(words)]
    if dtype != torch.bfloat16 or not known:
        return None
    return max(known, key=lambda gpu: len(gpu.name)).tflops * 1e12


def peak_flops_per_s(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return the peak FLOP/s of a device by its data sheet; None for CPUs and unknown GPUs."""
    return datasheet_flops(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory so far: of tensors on a CUDA device, of the whole process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
