"""Whether a run whose job has ended goes back into the queue, from what the run itself says.

torchrun exits with 1 whatever its ranks return, so exit codes tell nothing. Progress is what was saved: a run that dies
before each of its checkpoints would otherwise burn its allocation for ever.
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
    """Whether to go on, and why."""

    requeue: bool
    reason: str


def should_requeue(run: Path, most: int, asked: bool) -> Decision:
    """Decide for a run whose job has ended, and count the times that it came no further.

    Args:
        most: times in a row that it may go on without a newer checkpoint.
        asked: whether Slurm asked the job to end, and not a person by the file STOP.

    Raises:
        UsageError: there is no such run.
    """
    if not run.is_dir():
        raise UsageError(f"{run}: no such run; hdit train makes it when it starts")
    status = read_status(run)
    state, reason = status.get("state"), str(status.get("reason", ""))
    if state == "done":
        return Decision(False, "the run is done")
    if state == "failed":
        return Decision(False, f"the run failed: {reason}")
    if state == "preempted" and not asked and reason.startswith("the file"):
        return Decision(False, f"a person stopped the run by {reason}")
    return _if_it_advances(run, most)


def saved_step(run: Path) -> int:
    """Return the step of the newest checkpoint, 0 without one."""
    found = (CHECKPOINT_NAME.fullmatch(folder.name) for folder in checkpoint_folders(run))
    return max((int(match[1]) for match in found if match), default=0)


def _if_it_advances(run: Path, most: int) -> Decision:
    step, (before, in_vain) = saved_step(run), _counted(run)
    in_vain = 0 if step > before else in_vain + 1
    write_atomic(run / COUNT, json.dumps({"step": max(step, before), "without_progress": in_vain}) + "\n")
    if in_vain > most:
        return Decision(False, f"the run came no further than step {before} in {most} further attempts")
    progress = f"from step {before} to {step}" if step > before else f"no further than {before}, attempt {in_vain}"
    return Decision(True, f"the run came {progress}; once more")


def _counted(run: Path) -> tuple[int, int]:
    """Return the newest checkpoint of the last time, and how often in a row there was none newer."""
    try:
        record = read_json(run / COUNT, LARGEST_BYTES)
        return int(record["step"]), int(record["without_progress"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0
