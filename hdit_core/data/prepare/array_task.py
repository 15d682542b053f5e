"""The part of a task when several machines prepare a data set: every N-th chunk of the inputs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hdit_core.errors import UsageError
from hdit_core.launch import env_int, step_tasks


@dataclass(frozen=True)
class ArrayTask:
    """Task `index`, counted from 0, of `count` tasks."""

    index: int
    count: int

    def chunks(self, num_chunks: int) -> range:
        """Return the indices of the task's chunks."""
        return range(self.index, num_chunks, self.count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE_JOB = ArrayTask(0, 1)


def parse_array_task(text: str) -> ArrayTask:
    """Parse a task such as `"3/8"`: task 3 of tasks 0 to 7. `"0/1"` is the whole job.

    Raises:
        UsageError: the text has another form, or the index is not below the count.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([1-9][0-9]{0,5})", text.strip())
    if match is None or int(match[1]) >= int(match[2]):
        raise UsageError(f"--task {text}: expected I/N with I from 0 to N-1, for example 3/8 for the fourth of 8 tasks")
    return ArrayTask(int(match[1]), int(match[2]))


def _slurm_array_task(environment: Mapping[str, str]) -> ArrayTask:
    """Return the task of this process in a Slurm job array; its ids may have any start and constant step."""
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return WHOLE_JOB
    number, count = (env_int(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "COUNT"))
    first, last, step = (env_int(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("MIN", "MAX", "STEP"))
    if last != first + step * (count - 1):  # for a list of ids, Slurm reports step 1
        raise UsageError(
            f"the {count} ids of this Slurm job array, from {first} to {last}, are a list, not a range, so the part of "
            f"task {number} is ambiguous; set it with --task I/N"
        )
    return ArrayTask((number - first) // step, count)


def _slurm_step_task(environment: Mapping[str, str]) -> ArrayTask:
    """Return the task of this process among the tasks of an srun command."""
    tasks = step_tasks(environment)
    return ArrayTask(env_int(environment, "SLURM_PROCID"), tasks) if tasks > 1 else WHOLE_JOB


def slurm_array_task(environment: Mapping[str, str]) -> ArrayTask:
    """Return the task of this process in a Slurm job array, among the tasks of an srun command, or in both.

    Raises:
        UsageError: the ids of the array are a list, not a range.
    """
    array, step = _slurm_array_task(environment), _slurm_step_task(environment)
    return ArrayTask(array.index * step.count + step.index, array.count * step.count)
