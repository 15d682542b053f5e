"""Launches a kernel on tensors, in any configuration."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hdit_core.model.triton import kernels
from hdit_core.model.triton.configuration import Configuration, Kernel, block_dim


@dataclass(frozen=True)
class Launch:
    """One call of a kernel.

    Attributes:
        kernel: name of the kernel.
        tensors: queries, keys, values and the kernel's other tensors, in the order of its arguments.
        kernel_size: of the attention window.
    """

    kernel: Kernel
    tensors: tuple[Tensor, ...]
    kernel_size: int

    def run(self, configuration: Configuration) -> None:
        """Run the kernel on the tensors' device."""
        q = self.tensors[0]
        batch, height, width, heads, _ = q.shape
        rows, columns = configuration.tile
        programs = batch * heads * -(-height // rows) * -(-width // columns)
        if not programs:
            return
        function = getattr(kernels, self.kernel)
        with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
            function[(programs,)](*self.arguments, **self.keywords(configuration))

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The kernel's positional arguments."""
        _, height, width, heads, _ = self.tensors[0].shape
        strides = tuple(x.stride()[:4] for x in self.tensors[:3])
        return *self.tensors, strides, (height, width, heads)

    def keywords(self, configuration: Configuration) -> dict[str, Any]:
        """Return the keyword arguments of the kernel and its compiler."""
        head_dim = self.tensors[0].shape[-1]
        return {
            "dims": (self.kernel_size, head_dim, block_dim(head_dim)),
            "tile": configuration.tile,
            "chunk": configuration.chunk,
            "num_warps": configuration.warps,
            "num_stages": configuration.stages,
            "enable_fp_fusion": True,
        }
