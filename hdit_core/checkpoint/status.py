"""RUN/status.json: how a run stands, for scripts. The file is whole or not there, and the last word is always true."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from hdit_core.checkpoint.layout import status_file
from hdit_core.errors import StoppedEarly
from hdit_core.files import read_json, write_atomic

RunStatus = Literal["running", "preempted", "done", "failed"]
"""`preempted`: all is saved, run the same command again. `failed`: look at `reason` first."""

LARGEST_BYTES = 1 << 20
COUNTS = ("step", "num_images")


def write_status(run: Path, state: RunStatus, step: int, num_images: int, **more: Any) -> None:
    """Say how the run stands after `step` steps and `num_images` images."""
    record = {"state": state, "step": step, "num_images": num_images, **more}
    write_atomic(status_file(run), json.dumps(record) + "\n")


def read_status(run: Path) -> dict[str, Any]:
    """Return what was last said, or an empty table where nothing readable was."""
    try:
        record = read_json(status_file(run), LARGEST_BYTES)
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in record.items() if key not in COUNTS or isinstance(value, int)}


@contextmanager
def recording_failure(run: Path, is_main: bool) -> Iterator[None]:
    """Write the state "failed" with its reason when the body raises anything but a request to stop.

    Args:
        is_main: whether this rank writes the run's files.
    """
    try:
        yield
    except StoppedEarly:
        raise
    except Exception as error:
        if is_main:
            last = read_status(run)
            reason = str(error) or type(error).__name__
            write_status(run, "failed", last.get("step", 0), last.get("num_images", 0), reason=reason)
        raise
