"""What a job asks of Slurm: the `#SBATCH` lines of its script."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from hdit_core.errors import UsageError

TIME = re.compile(r"[0-9]+(:[0-9]{1,2}){0,2}|[0-9]+-[0-9]{1,2}(:[0-9]{1,2}){0,2}")
# What sbatch takes as it stands: neither blanks, quotes, $ nor line ends, and no hyphen before it.
PLAIN = re.compile(r"(?!-)[\w.,:=/%@+\[\]*&|()-]+")
NAME = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Request:
    """Nodes, devices and time of a job.

    Attributes:
        name: of the job; what Slurm could misread becomes a hyphen.
        time: limit, as sbatch takes it: minutes, hours:minutes:seconds, or days-hours[:minutes[:seconds]].
        nodes: machines.
        gpus_per_node: devices on each.
        ranks_per_node: processes on each; None: one for each GPU, or a single one on the CPU.
        cpus_per_task: cores of a process; None: as the cluster does.
        notice_s: seconds before the limit at which the job is told to save; 0: it is not told.
        more: further options of sbatch without their hyphens, such as `partition=gpu` or `exclusive`.
    """

    name: str
    time: str
    nodes: int = 1
    gpus_per_node: int = 0
    ranks_per_node: int | None = None
    cpus_per_task: int | None = None
    notice_s: int = 300
    more: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not TIME.fullmatch(self.time):
            raise UsageError(f"--time {self.time}: expected a time as sbatch takes it, such as 24:00:00 or 2-12:00")
        if 0 < self.time_s <= self.notice_s:  # a time of 0 is no limit to sbatch
            raise UsageError(
                f"--notice {self.notice_s}: the job would be told to end as soon as it begins, since "
                f"--time {self.time} is {self.time_s} seconds; expected a shorter notice, or more time"
            )
        for option in self.more:
            if not PLAIN.fullmatch(option):
                raise UsageError(
                    f"--sbatch {option}: expected an option of sbatch without hyphens, for example partition=gpu"
                )

    @property
    def time_s(self) -> int:
        """The limit in seconds; 0 where there is none."""
        days, _, clock = self.time.rpartition("-")
        parts = [int(part) for part in clock.split(":")]
        if days:
            hours, minutes, seconds = [*parts, 0, 0][:3]
        else:  # minutes, minutes:seconds, or hours:minutes:seconds
            hours, minutes, seconds = parts if len(parts) == 3 else [0, *parts, 0][:3]
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds

    @property
    def local_ranks(self) -> int:
        """Processes that train or draw on a node."""
        return self.ranks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Processes of the whole job."""
        return self.nodes * self.local_ranks

    def cores(self, tasks_per_node: int) -> int | None:
        """Return the cores of each of srun's tasks, which may start several processes; None: as the cluster does."""
        return self.cpus_per_task and self.cpus_per_task * self.local_ranks // tasks_per_node

    def directives(self, tasks_per_node: int, *, log: str = "%x-%j.out", array: int | None = None) -> Iterator[str]:
        """Yield the script's `#SBATCH` lines.

        Args:
            tasks_per_node: processes that srun starts on a node.
            log: name of the file for what the job prints.
            array: number of the tasks of a job array.
        """
        options = [f"job-name={NAME.sub('-', self.name)}", f"nodes={self.nodes}", f"ntasks-per-node={tasks_per_node}"]
        if self.gpus_per_node:
            options.append(f"gpus-per-node={self.gpus_per_node}")
        if self.cpus_per_task:
            options.append(f"cpus-per-task={self.cores(tasks_per_node)}")
        if array:
            options.append(f"array=1-{array}")
        options.append(f"time={self.time}")
        if self.notice_s:
            options.append(f"signal=B:USR1@{self.notice_s}")
        options += ["requeue", "open-mode=append", f"output={log}", *self.more]
        return (f"#SBATCH --{option}" for option in options)
