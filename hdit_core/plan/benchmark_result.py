"""A speed that was measured: what `hdit bench train --json` printed on a device of the kind that is planned for."""

from dataclasses import dataclass
from pathlib import Path

from hdit_core.errors import UsageError
from hdit_core.files import read_json

MOST_BYTES = 1_000_000
X86 = ("x86_64", "amd64")


@dataclass(frozen=True)
class Measured:
    """A training step that was timed.

    Attributes:
        device: where, as torch names it.
        processor: what that is.
        recipe: of what, as the benchmark was asked for it.
        images: that the step takes.
        flops: of the model's products in a step, forward and backward.
        step_s: how long a step takes.
        peak_bytes: most memory it held; None where the system does not tell.
        threads: that torch computed with on the CPU.
        system: its kind and the processor's, such as `Linux x86_64`.
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
        """The model's floating-point operations in a second."""
        return self.flops / self.step_s

    @property
    def flops_per_image(self) -> float:
        """The same of one image, by which a network is known again."""
        return self.flops / self.images

    @property
    def on_cpu(self) -> bool:
        """Whether it was timed without a GPU."""
        return self.device == "cpu"

    @property
    def pass_threads(self) -> int:
        """Threads of the compiled passes of whole blocks; 0 where there were none: they need POSIX and MKL, so x86."""
        system = self.system.lower()
        there = self.on_cpu and system.endswith(X86) and not system.startswith("windows")
        return self.threads if there else 0


def read_measured(path: Path) -> Measured:
    """Read the JSON of `hdit bench train`.

    Raises:
        UsageError: there is no such file, or it is another's.
    """
    try:
        found = read_json(path, MOST_BYTES)
        seconds, flops, images = float(found["time"]["median_s"]), float(found["flops"]), int(found["images"])
        if not (0 < seconds < float("inf") and 0 < flops < float("inf") and images > 0):
            raise ValueError("times, operations and images have to be positive")
        peak, machine = found["peak_bytes"], found["machine"]
        threads = int(machine.get("threads", 1))
        if threads < 1:
            raise ValueError("threads have to be positive")
        what = str(machine["device"]), str(machine["processor"]), str(found["recipe"])
        system = str(machine.get("system", ""))
        return Measured(*what, images, flops, seconds, None if peak is None else int(peak), threads, system)
    except OSError as problem:
        raise UsageError(f"--measured {path}: cannot be read ({problem.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise UsageError(
            f"--measured {path}: not what `hdit bench train RECIPE --json` prints; make it with that command"
        ) from None
