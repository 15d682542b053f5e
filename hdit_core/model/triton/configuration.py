"""Tile sizes and launch parameters of the kernels, and the candidates for each kernel, the safest one first.

All of them compile for compute capability 8.0, 9.0 and 10.0 without register spilling and within the shared memory of
consumer GPUs. Tests check this, and `benchmarks/triton_resources.py` prints the resources.
"""

from dataclasses import dataclass
from typing import Literal

import torch

Kernel = Literal["forward", "backward_queries", "backward_keys"]
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LARGEST_HEAD_DIM = 128


@dataclass(frozen=True)
class Configuration:
    """Tile sizes and launch parameters of a kernel.

    Attributes:
        tile: height and width, in tokens, of the tile that a program computes.
        chunk: height and width, in tokens, of the chunks that it reads.
        warps: of 32 threads.
        stages: of the software pipeline: chunks in flight, including the one being computed.
    """

    tile: tuple[int, int]
    chunk: tuple[int, int]
    warps: int
    stages: int

    def __str__(self) -> str:
        sizes = "/".join("x".join(map(str, size)) for size in (self.tile, self.chunk))
        return f"{sizes}, {self.warps} warps, {self.stages} stages"


SMALL = Configuration((8, 8), (2, 16), warps=4, stages=3)
SMALL_WIDE = Configuration((8, 8), (2, 16), warps=8, stages=2)
SMALL_LONG = Configuration((8, 8), (4, 16), warps=4, stages=2)
LARGE = Configuration((8, 16), (1, 32), warps=8, stages=2)
# exact float32 products cannot use tensor cores: they are computed in registers, which hold only smaller tiles
FLOAT32_NARROW = Configuration((8, 8), (1, 16), warps=4, stages=2)
FLOAT32 = Configuration((8, 8), (1, 16), warps=8, stages=2)
FLOAT32_HALF = Configuration((4, 8), (1, 16), warps=8, stages=2)
FLOAT32_QUARTER = Configuration((4, 4), (1, 16), warps=4, stages=2)


def block_dim(head_dim: int) -> int:
    """Return the head dimension padded to a power of two, at least 16, as the kernels use it."""
    return max(16, 1 << (head_dim - 1).bit_length())


def configurations(kernel: Kernel, dtype: torch.dtype, head_dim: int) -> tuple[Configuration, ...]:
    """Return the candidate configurations of a kernel; the first is used if nothing can be timed."""
    block, holds_two_sums = block_dim(head_dim), kernel == "backward_keys"
    if dtype == torch.float32:
        largest = FLOAT32_QUARTER if holds_two_sums else FLOAT32_HALF
        return ({16: FLOAT32_NARROW, LARGEST_HEAD_DIM: largest}.get(block, FLOAT32),)
    if block == LARGEST_HEAD_DIM:
        return (SMALL_WIDE,) if holds_two_sums else (SMALL, SMALL_WIDE)
    return (SMALL, LARGE) if holds_two_sums else (SMALL, SMALL_LONG, LARGE)
