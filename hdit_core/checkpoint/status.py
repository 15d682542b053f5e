"""RUN/status.json: the status of a run, for scripts. It is written atomically."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from hdit_core.checkpoint.layout import status_file
from hdit_core.errors import StoppedEarly
from hdit_core.files import read_json, write_atomic

RunStatus = Literal["running", "preempted", "done", "failed"]
"""`preempted`: everything is saved, rerun the command. `failed`: see `reason`."""

LARGEST_BYTES = 1 << 20
COUNTS = ("step", "num_images")


def write_status(run: Path, state: RunStatus, step: int, num_images: int, **more: Any) -> None:
    """Write the status of a run after `step` steps and `num_images` images."""
    record = {"state": state, "step": step, "num_images": num_images, **more}
    write_atomic(status_file(run), json.dumps(record) + "\n")


def read_status(run: Path) -> dict[str, Any]:
    """Return the last status; empty if there is none, or it cannot be read."""
    try:
        record = read_json(status_file(run), LARGEST_BYTES)
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in record.items() if key not in COUNTS or isinstance(value, int)}


@contextmanager
def recording_failure(run: Path, is_main: bool) -> Iterator[None]:
    """Write the status "failed" with its reason if the body raises, or "preempted" if the run can be resumed.

    Args:
        run: the run directory.
        is_main: whether this rank writes the run's files.
    """
    try:
        yield
    except StoppedEarly as stop:
        last = read_status(run) if is_main else {}
        if last.get("state") == "running":  # the run could not write its own status, for lack of its data
            write_status(run, "preempted", last.get("step", 0), last.get("num_images", 0), reason=str(stop))
        raise
    except Exception as error:
        if is_main:
            last = read_status(run)
            reason = str(error) or type(error).__name__
            write_status(run, "failed", last.get("step", 0), last.get("num_images", 0), reason=reason)
        raise
