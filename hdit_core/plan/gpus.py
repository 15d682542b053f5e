"""What makers say of their GPUs: figures of the data sheets, without sparsity."""

from dataclasses import dataclass

from hdit_core.errors import UsageError, did_you_mean

USABLE = 0.92
"""Share of a GPU's memory that a plan fills: the rest is for the CUDA context, kernels and fragmentation."""


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: what `--gpu` calls it.
        memory_gb: in units of 10^9 bytes.
        tflops: dense products in bfloat16 summed in float32, 10^12 floating-point operations a second (a MAC is two).
        watts: the most it draws.
    """

    name: str
    memory_gb: int
    tflops: int
    watts: int

    @property
    def usable_bytes(self) -> int:
        """Memory that a plan may fill."""
        return int(self.memory_gb * 1e9 * USABLE)


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40gb", 40, 312, 400),
        Gpu("a100", 80, 312, 400),
        Gpu("h100", 80, 989, 700),
        Gpu("h100-pcie", 80, 756, 350),
        Gpu("h200", 141, 989, 700),
        Gpu("b200", 180, 2250, 1000),
        Gpu("l4", 24, 121, 72),
        Gpu("l40s", 48, 362, 350),
        Gpu("a10", 24, 125, 150),
        Gpu("a6000", 48, 155, 300),
        Gpu("rtx3090", 24, 71, 350),
        Gpu("rtx4090", 24, 165, 450),
        Gpu("rtx5090", 32, 210, 575),
        Gpu("mi300x", 192, 1307, 750),
    )
}


def find_gpu(name: str) -> Gpu:
    """Return a GPU by its name.

    Raises:
        UsageError: it is not in the table.
    """
    if gpu := GPUS.get(name.lower()):
        return gpu
    raise UsageError(f"--gpu {name}: unknown{did_you_mean(name, GPUS)}; there are {', '.join(GPUS)}")
