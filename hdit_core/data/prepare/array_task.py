"""One task's part of a preparation by several machines: every N-th chunk of the inputs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hdit_core.errors import UsageError
from hdit_core.launch import env_int, step_tasks


@dataclass(frozen=True)
class ArrayTask:
    """Task `index` of `count`."""

    index: int
    count: int

    def chunks(self, num_chunks: int) -> range:
        """Return the indices of its chunks."""
        return range(self.index, num_chunks, self.count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE_JOB = ArrayTask(0, 1)


def parse_array_task(text: str) -> ArrayTask:
    """Read `"3/8"`: task 3 of the tasks 0 to 7; `"0/1"` is everything.

    Raises:
        UsageError: it is no such text.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([1-9][0-9]{0,5})", text.strip())
    if match is None or int(match[1]) >= int(match[2]):
        raise UsageError(f"--task {text}: expected I/N with I from 0 to N-1, for example 3/8 for the fourth of 8 tasks")
    return ArrayTask(int(match[1]), int(match[2]))


def _slurm_array_task(environment: Mapping[str, str]) -> ArrayTask:
    """Return the place in a job array, whose ids may begin anywhere and lie apart, but evenly."""
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return WHOLE_JOB
    number, count = (env_int(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "COUNT"))
    first, last, step = (env_int(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("MIN", "MAX", "STEP"))
    if last != first + step * (count - 1):  # of a list of ids Slurm says the step 1
        raise UsageError(
            f"the {count} ids of this Slurm job array, from {first} to {last}, are a list and no range, so that it is "
            f"open which share of the images is that of {number}; say --task I/N"
        )
    return ArrayTask((number - first) // step, count)


def _slurm_step_task(environment: Mapping[str, str]) -> ArrayTask:
    """Return the part of this process among the tasks of one srun."""
    tasks = step_tasks(environment)
    return ArrayTask(env_int(environment, "SLURM_PROCID"), tasks) if tasks > 1 else WHOLE_JOB


def slurm_array_task(environment: Mapping[str, str]) -> ArrayTask:
    """Return the share of this process in a Slurm job array, among the tasks of one srun, or in both.

    Raises:
        UsageError: the ids of the array do not say which share it is.
    """
    array, step = _slurm_array_task(environment), _slurm_step_task(environment)
    return ArrayTask(array.index * step.count + step.index, array.count * step.count)
