"""A task's share of a preparation that several machines make: every N-th piece of the inputs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hdit_core.errors import UsageError


@dataclass(frozen=True)
class ArrayTask:
    """Task `index` of `count`."""

    index: int
    count: int

    def chunks(self, num_pieces: int) -> range:
        """Return the numbers of its pieces."""
        return range(self.index, num_pieces, self.count)

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


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except (KeyError, ValueError):
        found = environment.get(name)
        raise UsageError(f"{name} is {found!r} in a Slurm job, expected a number; say --task I/N") from None


def _slurm_array_task(environment: Mapping[str, str]) -> ArrayTask:
    """Return the place in a job array, whose ids may begin anywhere and lie apart, but evenly."""
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return WHOLE_JOB
    number, count = (_number(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "COUNT"))
    first, last, step = (_number(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("MIN", "MAX", "STEP"))
    if last != first + step * (count - 1):  # of a list of ids Slurm says the step 1
        raise UsageError(
            f"the {count} ids of this Slurm job array, from {first} to {last}, are a list and no range, so that it is "
            f"open which share of the images is that of {number}; say --task I/N"
        )
    return ArrayTask((number - first) // step, count)


def _slurm_step_task(environment: Mapping[str, str]) -> ArrayTask:
    """Return the place among the processes of one srun.

    The batch script itself has SLURM_PROCID=0 and SLURM_NTASKS too, and is alone; only srun sets SLURM_STEP_NUM_TASKS.
    """
    if "SLURM_STEP_NUM_TASKS" not in environment:
        return WHOLE_JOB
    return ArrayTask(_number(environment, "SLURM_PROCID"), _number(environment, "SLURM_STEP_NUM_TASKS"))


def slurm_array_task(environment: Mapping[str, str]) -> ArrayTask:
    """Return the share of this process in a Slurm job array, among the tasks of one srun, or in both.

    Raises:
        UsageError: the ids of the array do not say which share it is.
    """
    array, step = _slurm_array_task(environment), _slurm_step_task(environment)
    return ArrayTask(array.index * step.count + step.index, array.count * step.count)
