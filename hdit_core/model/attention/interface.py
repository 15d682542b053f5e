"""Where attention is to be computed: what decides which of its implementations can."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

AttentionFn = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # of (q, k, v, kernel_size)


@dataclass(frozen=True)
class KernelTarget:
    """A device, and the kind of tensors that it is given.

    Attributes:
        dtype: of queries, keys and values.
        head_dim: features per head.
        in_one_order: whether all sums have to be in one order, as torch was told to have them.
    """

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    deterministic: bool = field(default_factory=torch.are_deterministic_algorithms_enabled)

    @property
    def device_name(self) -> str:
        """What a user calls the device: CPU, MPS, or CUDA with its compute capability."""
        if self.device.type != "cuda":
            return self.device.type.upper()
        if torch.version.hip:
            return "ROCm"
        return "CUDA {}.{}".format(*torch.cuda.get_device_capability(self.device))

    @property
    def dtype_name(self) -> str:
        """The dtype as recipes write it: float32, bfloat16, ..."""
        return str(self.dtype).removeprefix("torch.")
