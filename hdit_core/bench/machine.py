"""What machine the figures are from, and what it can do at best: the rate of its own large matrix products."""

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from hdit_core.bench.timing import Clock, Rounds, interleaved, stopwatch

PRODUCT_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192), "mps": (2048, 4096)}
"""Sides of the square matrices whose product is timed: large enough that nothing but arithmetic counts."""

FLOPS_PER_MAC = 2


@dataclass(frozen=True)
class Machine:
    """Where figures were measured.

    Attributes:
        processor: name of the CPU, or of the GPU.
        threads: that torch computes with on the CPU.
        cores: that this process may run on.
    """

    device: str
    processor: str
    threads: int
    cores: int
    torch: str
    python: str
    system: str

    def to_json(self) -> dict[str, str | int]:
        return asdict(self)

    def __str__(self) -> str:
        threads = f", {self.threads} of {self.cores} cores" if self.device == "cpu" else ""
        return f"{self.processor} ({self.device}{threads}), torch {self.torch}, Python {self.python}, {self.system}"


def this_machine(device: torch.device, threads: int) -> Machine:
    """Describe the machine at hand, as one that computes on `device`."""
    gpu = device.type == "cuda"
    return Machine(
        device=str(device),
        processor=torch.cuda.get_device_name(device) if gpu else _processor(),
        threads=threads,
        cores=_cores(),
        torch=torch.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """Return the CPU's name: Python itself knows it on few systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def finish(device: torch.device) -> None:
    """Wait until the device has done all that it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def product_rate(
    device: torch.device, dtype: torch.dtype, *, rounds: Rounds | None = None, clock: Clock | None = None
) -> float:
    """Return the FLOP/s of the fastest of several large matrix products: what nothing on this device gets past."""
    rounds = rounds or Rounds(warm_up=2, least=5, most=100, limit_s=1.0)
    rates = []
    for size in PRODUCT_SIZES[device.type]:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        task = stopwatch(partial(torch.matmul, left, right), partial(finish, device), clock)
        timing = interleaved({"product": task}, rounds, clock=clock)["product"]
        rates.append(FLOPS_PER_MAC * size**3 / min(timing.runs_s))
    return max(rates)


def rate_of(device: torch.device, dtype: torch.dtype, say: Callable[[str], None]) -> float:
    """Return `product_rate`; `say` is not told, it is there for `apart.measured`."""
    return product_rate(device, dtype)
