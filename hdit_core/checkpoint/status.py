"""RUN/status.json: the status of a run, for scripts. It is written atomically."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from hdit_core.checkpoint.layout import status_file
from hdit_core.data.format.retry_reads import retry_transient
from hdit_core.errors import StoppedEarly
from hdit_core.files import read_json, write_atomic

RunStatus = Literal["running", "preempted", "done", "failed"]
"""`preempted`: everything is saved, rerun the command. `failed`: see `reason`."""

LARGEST_BYTES = 1 << 20
TYPES: dict[str, Any] = {
    "step": int, "num_images": int, "images_per_s": int | float, "reason": str | None, "progress": dict,
}  # fmt: skip


def write_status(run: Path, state: RunStatus, step: int, num_images: int, **more: Any) -> None:
    """Write the status of a run after `step` steps and `num_images` images."""
    record = {"state": state, "step": step, "num_images": num_images, **more}
    write_atomic(status_file(run), json.dumps(record) + "\n")


def read_status(run: Path) -> dict[str, Any]:
    """Return the last status; empty if there is none, or it is damaged.

    Raises:
        StorageUnavailable, OSError: it cannot be read, so that the status is unknown.
    """
    try:
        return retry_transient(status_file(run), lambda: _read(run))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return {}


def updated(run: Path) -> str | None:
    """Return when the status was written, in local time (ISO 8601); None if there is none."""
    try:
        written = status_file(run).stat().st_mtime
    except FileNotFoundError:
        return None
    return datetime.fromtimestamp(written).astimezone().isoformat(timespec="seconds")


def _read(run: Path) -> dict[str, Any]:
    record = _valid(read_json(status_file(run), LARGEST_BYTES))
    return record | ({"progress": _valid(record["progress"])} if "progress" in record else {})


def _valid(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without values of another type."""
    return {key: value for key, value in record.items() if isinstance(value, TYPES.get(key, object))}


def _end(run: Path, state: RunStatus, reason: str, *, only: RunStatus | None = None) -> None:
    """Write the status at the end of a run as far as the storage allows: it may be the reason for that end.

    Args:
        only: the last status that is replaced; None: any.
    """
    last: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        last = _read(run)
    if only is None or last.get("state") == only:
        with suppress(OSError):
            write_status(run, state, last.get("step", 0), last.get("num_images", 0), reason=reason)


@contextmanager
def recording_failure(run: Path, is_main: bool) -> Iterator[None]:
    """Write the status "failed" with its reason if the body raises, or "preempted" if the run can be resumed.

    Args:
        is_main: whether this rank writes the run's files.
    """
    try:
        yield
    except StoppedEarly as stop:
        if is_main:
            _end(run, "preempted", str(stop), only="running")  # a run that lacks its data cannot write its own
        raise
    except Exception as error:
        if is_main:
            _end(run, "failed", str(error) or type(error).__name__)
        raise
