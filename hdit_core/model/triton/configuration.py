"""How a kernel is cut and launched: the few configurations that are tried on a GPU, the one that is safe first.

All of them compile for compute capability 8.0, 9.0 and 10.0 without spilled registers and within the shared memory of
the smallest of these GPUs' consumer parts; tests hold them to that, `benchmarks/triton_resources.py` prints them.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch

Kernel = Literal["forward", "backward_queries", "backward_keys"]
KERNELS: tuple[Kernel, ...] = ("forward", "backward_queries", "backward_keys")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LARGEST_HEAD_DIM = 128
SHARED_LIMIT_BYTES = 99 * 1024  # of one program on compute capability 8.6, 8.9 and 12.0; 8.0, 9.0 and 10.0 have more


@dataclass(frozen=True)
class Configuration:
    """How a kernel is cut and launched.

    Attributes:
        tile: rows and columns of the tokens that a program computes.
        chunk: rows and columns of the tokens that it reads at once.
        warps: of 32 threads.
        stages: chunks that are on their way from memory while one is computed, and that one.
    """

    tile: tuple[int, int]
    chunk: tuple[int, int]
    warps: int
    stages: int

    def tokens_read(self, kernel_size: int) -> int:
        """Return the tokens that a tile inside the grid computes with, those of its last chunks' rims included."""
        chunks = [-(-(tile + kernel_size - 1) // chunk) for tile, chunk in zip(self.tile, self.chunk, strict=True)]
        return math.prod(chunks) * math.prod(self.chunk)

    def __str__(self) -> str:
        sizes = "/".join("x".join(map(str, size)) for size in (self.tile, self.chunk))
        return f"{sizes}, {self.warps} warps, {self.stages} stages"


SMALL = Configuration((8, 8), (2, 16), warps=4, stages=3)
SMALL_WIDE = Configuration((8, 8), (2, 16), warps=8, stages=2)
SMALL_LONG = Configuration((8, 8), (4, 16), warps=4, stages=2)
LARGE = Configuration((8, 16), (1, 32), warps=8, stages=2)
# exact products of float32 have no matrix instructions: they are made in registers, which hold smaller tiles
FLOAT32_NARROW = Configuration((8, 8), (1, 16), warps=4, stages=2)
FLOAT32 = Configuration((8, 8), (1, 16), warps=8, stages=2)
FLOAT32_HALF = Configuration((4, 8), (1, 16), warps=8, stages=2)
FLOAT32_QUARTER = Configuration((4, 4), (1, 16), warps=4, stages=2)


def block_dim(head_dim: int) -> int:
    """Return the features of a head as the kernels hold them: a power of two, 16 at least."""
    return max(16, 1 << (head_dim - 1).bit_length())


def configurations(kernel: Kernel, dtype: torch.dtype, head_dim: int) -> tuple[Configuration, ...]:
    """Return the configurations of a kernel that are worth trying; the first is taken where none can be timed."""
    block, holds_two_sums = block_dim(head_dim), kernel == "backward_keys"
    if dtype == torch.float32:
        largest = FLOAT32_QUARTER if holds_two_sums else FLOAT32_HALF
        return ({16: FLOAT32_NARROW, LARGEST_HEAD_DIM: largest}.get(block, FLOAT32),)
    if block == LARGEST_HEAD_DIM:
        return (SMALL_WIDE,) if holds_two_sums else (SMALL, SMALL_WIDE)
    return (SMALL, LARGE) if holds_two_sums else (SMALL, SMALL_LONG, LARGE)
