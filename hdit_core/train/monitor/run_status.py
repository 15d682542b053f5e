"""RUN/status.json while a run trains: the newest checkpoint, and the progress beyond it."""

import math
import time
from pathlib import Path
from typing import Any

from hdit_core.checkpoint.state import State
from hdit_core.checkpoint.status import RunStatus, write_status
from hdit_core.train.monitor.callbacks import Progress

EVERY_S = 20.0


class RunStatusWriter:
    """Writes the status of a run, on the main rank only.

    Attributes:
        saved: state of the newest checkpoint.
        progress: of the newest step.
    """

    def __init__(self, run: Path, is_main: bool, saved: State | None) -> None:
        self.saved = saved
        self.progress: Progress | None = None
        self._run, self._is_main = run, is_main
        self._written_at_s = 0.0

    def write_if_due(self, progress: Progress) -> None:
        """Take over the progress, and write it every `EVERY_S` seconds."""
        self.progress = progress
        if time.monotonic() - self._written_at_s >= EVERY_S:
            self.write("running")

    def write(self, status: RunStatus, **more: Any) -> None:
        """Write `step` and `num_images` of the newest checkpoint, and the progress of a running run."""
        if not self._is_main:
            return
        self._written_at_s = time.monotonic()
        saved, now = self.saved, self.progress
        if now is not None:
            more["images_per_s"] = now.images_per_s
        if now is not None and status == "running":
            more["progress"] = {
                "step": now.step,
                "num_images": now.num_images,
                "loss": now.loss if math.isfinite(now.loss) else None,
                "seconds_left": round(now.seconds_left),
            }
        write_status(self._run, status, saved.step if saved else 0, saved.num_images if saved else 0, **more)
