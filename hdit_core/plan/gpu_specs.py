"""GPU specifications from the manufacturers' data sheets, without sparsity."""

from dataclasses import dataclass

from hdit_core.errors import UsageError, did_you_mean

USABLE_FRACTION = 0.92
"""Fraction of a GPU's memory that a plan may use; the rest is for the CUDA context, kernels and fragmentation."""


@dataclass(frozen=True)
class Gpu:
    """A GPU model.

    Attributes:
        name: value of `--gpu`.
        memory_gb: in units of 10^9 bytes.
        tflops: dense bfloat16 products with float32 accumulation, in 10^12 operations per second (2 per MAC).
        watts: maximum power.
        memory_tb_per_s: memory bandwidth, in 10^12 bytes per second.
    """

    name: str
    memory_gb: int
    tflops: int
    watts: int
    memory_tb_per_s: float

    @property
    def usable_bytes(self) -> int:
        """Memory that a plan may use."""
        return int(self.memory_gb * 1e9 * USABLE_FRACTION)


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40gb", 40, 312, 400, 1.555),
        Gpu("a100", 80, 312, 400, 2.039),
        Gpu("h100", 80, 989, 700, 3.35),
        Gpu("h100-pcie", 80, 756, 350, 2.0),
        Gpu("h200", 141, 989, 700, 4.8),
        Gpu("b200", 180, 2250, 1000, 7.7),
        Gpu("l4", 24, 121, 72, 0.3),
        Gpu("l40s", 48, 362, 350, 0.864),
        Gpu("a10", 24, 125, 150, 0.6),
        Gpu("a6000", 48, 155, 300, 0.768),
        Gpu("rtx3090", 24, 71, 350, 0.936),
        Gpu("rtx4090", 24, 165, 450, 1.008),
        Gpu("rtx5090", 32, 210, 575, 1.792),
        Gpu("mi300x", 192, 1307, 750, 5.3),
    )
}


def find_gpu(name: str) -> Gpu:
    """Return a GPU by name.

    Raises:
        UsageError: the name is not in the table.
    """
    if gpu := GPUS.get(name.lower()):
        return gpu
    raise UsageError(f"--gpu {name}: unknown{did_you_mean(name, GPUS)}; known: {', '.join(GPUS)}")
