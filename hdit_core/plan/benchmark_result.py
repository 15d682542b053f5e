"""A measured training speed: the output of `hdit bench train --json` on the kind of device to plan for."""

from dataclasses import dataclass
from pathlib import Path

from hdit_core.errors import UsageError
from hdit_core.files import read_json

MAX_FILE_BYTES = 1_000_000
X86 = ("x86_64", "amd64")


@dataclass(frozen=True)
class BenchmarkResult:
    """The measured speed and memory of a training step.

    Attributes:
        device: torch's name of the device, such as `cuda:0`.
        processor: name of the GPU or CPU.
        recipe: name or path of the recipe, as given to the benchmark.
        images: per step.
        flops: of the model's matrix products in a step, forward and backward.
        step_s: duration of a step.
        peak_bytes: peak memory of the step; None if the system does not report it.
        threads: of torch on the CPU.
        system: operating system and CPU architecture, such as `Linux x86_64`.
    """

    device: str
    processor: str
    recipe: str
    images: int
    flops: float
    step_s: float
    peak_bytes: int | None
    threads: int = 1
    system: str = ""

    @property
    def flops_per_s(self) -> float:
        """The model's floating-point operations per second."""
        return self.flops / self.step_s

    @property
    def flops_per_image(self) -> float:
        """Floating-point operations per image, which identify a network."""
        return self.flops / self.images

    @property
    def on_cpu(self) -> bool:
        """Whether the benchmark ran on a CPU."""
        return self.device == "cpu"

    @property
    def fused_threads(self) -> int:
        """Threads of the fused kernels of whole blocks; 0 if there were none: they need POSIX and MKL, so x86."""
        system = self.system.lower()
        available = self.on_cpu and system.endswith(X86) and not system.startswith("windows")
        return self.threads if available else 0


def read_benchmark_result(path: Path) -> BenchmarkResult:
    """Return the result in a JSON file of `hdit bench train --json`.

    Raises:
        UsageError: the file cannot be read, or is not such a file.
    """
    try:
        result = read_json(path, MAX_FILE_BYTES)
        seconds, flops, images = float(result["time"]["median_s"]), float(result["flops"]), int(result["images"])
        if not (0 < seconds < float("inf") and 0 < flops < float("inf") and images > 0):
            raise ValueError("times, operations and images must be positive")
        peak, machine = result["peak_bytes"], result["machine"]
        threads = int(machine.get("threads", 1))
        if threads < 1:
            raise ValueError("threads must be positive")
        names = str(machine["device"]), str(machine["processor"]), str(result["recipe"])
        system = str(machine.get("system", ""))
        return BenchmarkResult(*names, images, flops, seconds, None if peak is None else int(peak), threads, system)
    except OSError as problem:
        raise UsageError(f"--measured {path}: cannot be read ({problem.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise UsageError(
            f"--measured {path}: not a file of `hdit bench train RECIPE --json`; create it with that command"
        ) from None
