"""A speed that was measured: what `hdit bench train --json` printed on a device of the kind that is planned for."""

import json
from dataclasses import dataclass
from pathlib import Path

from hdit_core.errors import UsageError

MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Measured:
    """A training step that was timed.

    Attributes:
        device: where, as the benchmark names it.
        recipe: of what.
        flops_per_s: the model's floating-point operations in a second, forward and backward.
        peak_bytes: most memory it held; None where the system does not tell.
    """

    device: str
    recipe: str
    flops_per_s: float
    peak_bytes: int | None

    @property
    def on_cpu(self) -> bool:
        """Whether it was timed without a GPU."""
        return self.device == "cpu"


def read_measured(path: Path) -> Measured:
    """Read the JSON of `hdit bench train`.

    Raises:
        UsageError: there is no such file, or it is another's.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("too large")
        found = json.loads(path.read_bytes())
        seconds, flops = float(found["time"]["median_s"]), float(found["flops"])
        if not (0 < seconds < float("inf") and 0 < flops < float("inf")):
            raise ValueError("times and operations have to be positive")
        peak = found["peak_bytes"]
        device, recipe = str(found["machine"]["device"]), str(found["recipe"])
        return Measured(device, recipe, flops / seconds, None if peak is None else int(peak))
    except OSError as problem:
        raise UsageError(f"--measured {path}: cannot be read ({problem.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(
            f"--measured {path}: not what `hdit bench train RECIPE --json` prints; make it with that command"
        ) from None
