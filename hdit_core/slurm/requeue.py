"""Whether a run whose job has ended is requeued, by the status of the run.

torchrun exits with code 1 whatever its ranks return, so exit codes do not help. Progress means a newer checkpoint: a
run that crashes before its next checkpoint must not be requeued forever.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from hdit_core.checkpoint.layout import CHECKPOINT_NAME, checkpoint_folders
from hdit_core.checkpoint.status import read_status
from hdit_core.errors import UsageError
from hdit_core.files import read_json, write_atomic

COUNT = "requeues.json"
LARGEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Decision:
    """Whether to requeue, and why."""

    requeue: bool
    reason: str


def should_requeue(run: Path, most: int, asked: bool) -> Decision:
    """Decide whether a run whose job has ended is requeued, and count attempts without progress.

    Args:
        run: the run directory.
        most: maximum number of consecutive attempts without a newer checkpoint.
        asked: whether Slurm ended the job, not a person by the file STOP.

    Raises:
        UsageError: there is no such run.
    """
    if not run.is_dir():
        raise UsageError(f"{run}: no such run; hdit train creates it")
    status = read_status(run)
    state, reason = status.get("state"), str(status.get("reason", ""))
    if state == "done":
        return Decision(False, "the run is done")
    if state == "failed":
        return Decision(False, f"the run failed: {reason}")
    if state == "preempted" and not asked and reason.startswith("the file"):
        return Decision(False, f"the run was stopped by {reason}")
    return _if_it_advances(run, most)


def saved_step(run: Path) -> int:
    """Return the step of the newest checkpoint; 0 if there is none."""
    matches = (CHECKPOINT_NAME.fullmatch(folder.name) for folder in checkpoint_folders(run))
    return max((int(match[1]) for match in matches if match), default=0)


def _if_it_advances(run: Path, most: int) -> Decision:
    step, (before, failures) = saved_step(run), _counted(run)
    failures = 0 if step > before else failures + 1
    write_atomic(run / COUNT, json.dumps({"step": max(step, before), "without_progress": failures}) + "\n")
    if failures > most:
        return Decision(False, f"no progress beyond step {before} in {most} further attempts")
    progress = f"from step {before} to {step}" if step > before else f"none beyond step {before}, attempt {failures}"
    return Decision(True, f"requeued; progress: {progress}")


def _counted(run: Path) -> tuple[int, int]:
    """Return the newest step of the last attempt, and the number of attempts in a row without a newer one."""
    try:
        record = read_json(run / COUNT, LARGEST_BYTES)
        return int(record["step"]), int(record["without_progress"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0
