"""This machine: its hardware and software, and the FLOP/s of its large matrix products."""

import os
import platform
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from hdit_core.bench.timing import Clock, Rounds, interleaved, stopwatch
from hdit_core.devices import synchronize
from hdit_core.flops.count import FLOPS_PER_MAC

PRODUCT_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192), "mps": (2048, 4096)}
"""Sides of the square matrices that are multiplied: large enough to be compute-bound."""


@dataclass(frozen=True)
class Machine:
    """The machine of a measurement.

    Attributes:
        processor: name of the CPU or the GPU.
        threads: CPU threads that torch uses.
        cores: cores that this process may run on.
    """

    device: str
    processor: str
    threads: int
    cores: int
    torch: str
    python: str
    system: str

    def to_json(self) -> dict[str, str | int]:
        """Return the fields as JSON."""
        return asdict(self)

    def __str__(self) -> str:
        threads = f", {self.threads} of {self.cores} cores" if self.device == "cpu" else ""
        return f"{self.processor} ({self.device}{threads}), torch {self.torch}, Python {self.python}, {self.system}"


def this_machine(device: torch.device, threads: int) -> Machine:
    """Return a description of this machine, computing on `device`."""
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
    """Return the name of the CPU, which Python itself knows on few systems only."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def product_rate(
    device: torch.device, dtype: torch.dtype, *, rounds: Rounds | None = None, clock: Clock | None = None
) -> float:
    """Return the FLOP/s of the fastest of several large matrix products: the practical peak of the device."""
    rounds = rounds or Rounds(warm_up=2, least=5, most=100, limit_s=1.0)
    rates = []
    for size in PRODUCT_SIZES[device.type]:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        task = stopwatch(partial(torch.matmul, left, right), partial(synchronize, device), clock)
        timing = interleaved({"product": task}, rounds, clock=clock)["product"]
        rates.append(FLOPS_PER_MAC * size**3 / min(timing.runs_s))
    return max(rates)
