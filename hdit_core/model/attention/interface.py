"""The interface between attention backends and their selection: device, dtype and head dimension of a call."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

AttentionFn = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # (q, k, v, kernel_size) -> output


@dataclass(frozen=True)
class KernelTarget:
    """What a backend has to support to compute a network's attention.

    Attributes:
        device: where the network runs.
        dtype: of queries, keys and values.
        head_dim: features per head.
        deterministic: whether only deterministic kernels are allowed; by default torch's global setting.
    """

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    deterministic: bool = field(default_factory=torch.are_deterministic_algorithms_enabled)

    @property
    def device_name(self) -> str:
        """The device as shown to the user: CPU, MPS, ROCm, or CUDA with its compute capability."""
        if self.device.type != "cuda":
            return self.device.type.upper()
        if torch.version.hip:
            return "ROCm"
        return "CUDA {}.{}".format(*torch.cuda.get_device_capability(self.device))

    @property
    def dtype_name(self) -> str:
        """The dtype as in recipes: float32, bfloat16, ..."""
        return str(self.dtype).removeprefix("torch.")
