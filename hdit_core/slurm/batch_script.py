"""Batch scripts for sbatch, with all external words quoted for the shell."""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hdit_core.data.stop_signals import STOP_SIGNALS
from hdit_core.errors import UsageError

TIME = re.compile(r"[0-9]+(:[0-9]{1,2}){0,2}|[0-9]+-[0-9]{1,2}(:[0-9]{1,2}){0,2}")
# An option of sbatch without leading hyphens, and without spaces, quotes, $ and line ends.
PLAIN = re.compile(r"(?!-)[\w.,:=/%@+\[\]*&|()-]+")
SWITCHES = {"contiguous", "exclusive", "hold", "ignore-pbs", "no-kill", "no-requeue", "overcommit", "oversubscribe"} | {
    "parsable", "propagate", "quiet", "reboot", "requeue", "spread-job", "test-only", "use-min-nodes", "verbose",
    "wait",
}  # fmt: skip
"""The options of sbatch that take no value, or may go without."""

NAME = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Request:
    """Resources of a job.

    Attributes:
        name: of the job; characters that Slurm could misread become hyphens.
        time: time limit as sbatch takes it: minutes, hours:minutes:seconds, or days-hours[:minutes[:seconds]].
        nodes: number of nodes.
        gpus_per_node: GPUs per node.
        ranks_per_node: ranks per node; None: one per GPU, or a single one without GPUs.
        cpus_per_task: CPU cores per rank; None: the default of the cluster.
        notice_s: lead time of the checkpoint signal before the time limit, in seconds; 0: no signal.
        more: further options of sbatch without hyphens, such as `partition=gpu` or `exclusive`.
        words: the command line that requested it, for the script's first comment.
    """

    name: str
    time: str
    nodes: int = 1
    gpus_per_node: int = 0
    ranks_per_node: int | None = None
    cpus_per_task: int | None = None
    notice_s: int = 300
    more: tuple[str, ...] = ()
    words: tuple[str, ...] = ("hdit", "slurm")

    def __post_init__(self) -> None:
        if not TIME.fullmatch(self.time):
            raise UsageError(f"--time {self.time}: expected a time as sbatch takes it, such as 24:00:00 or 2-12:00")
        if 0 < self.time_s <= self.notice_s:  # sbatch takes a time of 0 as no limit
            raise UsageError(
                f"--notice {self.notice_s}: the job would get the signal as soon as it starts, since "
                f"--time {self.time} is {self.time_s} seconds; expected a shorter notice, or more time"
            )
        for option in self.more:
            if not PLAIN.fullmatch(option):
                raise UsageError(
                    f"--sbatch {option}: expected an option of sbatch without hyphens, for example partition=gpu"
                )
            name, _, value = option.partition("=")
            if not value and name not in SWITCHES:
                raise UsageError(f"--sbatch {option}: expected a value, for example {name}=NAME")

    @property
    def time_s(self) -> int:
        """The time limit in seconds; 0 if there is none."""
        days, _, clock = self.time.rpartition("-")
        parts = [int(part) for part in clock.split(":")]
        if days:
            hours, minutes, seconds = [*parts, 0, 0][:3]
        else:  # minutes, minutes:seconds, or hours:minutes:seconds
            hours, minutes, seconds = parts if len(parts) == 3 else [0, *parts, 0][:3]
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds

    @property
    def local_ranks(self) -> int:
        """Ranks per node."""
        return self.ranks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Ranks of the whole job."""
        return self.nodes * self.local_ranks

    def cores(self, tasks_per_node: int) -> int | None:
        """Return the CPU cores per task of srun, which may start several ranks; None: the default of the cluster."""
        return self.cpus_per_task and self.cpus_per_task * self.local_ranks // tasks_per_node

    def directives(self, tasks_per_node: int, *, log: str = "%x-%j.out", array: int | None = None) -> Iterator[str]:
        """Yield the script's `#SBATCH` lines.

        Args:
            tasks_per_node: processes that srun starts on a node.
            log: name of the job's output file.
            array: number of tasks of a job array.
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


MODULE = "hdit_cli"
SIGNALS = ",".join(number.name for number in STOP_SIGNALS)  # others kill torchrun and leave its ranks running
LINE_ENDS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

# The store of torchrun listens on every interface, whatever address it is given. On one node the rendezvous is a file,
# and the first rank hosts a store that listens on the loopback interface only.
MEET_IN_FILE = """\
meet=$(mktemp -d)
trap 'rm -rf "$meet"' EXIT
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
"""
MEET_AT_PORT = """\
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
"""
IN_FILE = '--rdzv-endpoint="$meet/store" --rdzv-conf=store_type=file --local-addr=127.0.0.1'
AT_PORT = '--rdzv-endpoint="$head:$port"'

FORWARD = """\
# before the time limit or a preemption: forward the signal, so that a checkpoint is saved before the job ends
asked=
end() {{ asked=1; {act}; }}
trap end USR1 TERM

{srun} &
job=$!
[ -z "$asked" ] || end  # the signal came before the command had started
while wait "$job"; code=$?; kill -0 "$job" 2> /dev/null; do :; done
"""


DROP_LEAKED = 'unset "${!SLURM_STEP@}"  # of the step in which sbatch was called'
TELL = 'kill -TERM "$!"'
END = 'exit "$code"\n'


def train_script(
    request: Request, words: Sequence[str], run: Path, setup: Iterable[str], launcher: str, most: int | None
) -> str:
    """Return the script of a run that resumes after a time limit, a preemption or a crash, as long as it advances.

    Args:
        request: the resources.
        words: arguments of `hdit train`.
        run: the run directory.
        setup: shell lines to run first, verbatim.
        launcher: `"torchrun"` or `"srun"`.
        most: maximum number of requeues without progress; None: the job runs once, such as a dry run; it neither stops
            the run nor is requeued.
    """
    start = _torchrun(request) if launcher == "torchrun" else f"{_srun(request, request.local_ranks)} {_python()}"
    tasks = 1 if launcher == "torchrun" else request.local_ranks
    act = TELL if most is None else _stop(run)
    body = FORWARD.format(act=act, srun=f"{start} {shlex.join(['train', *words])}")
    ending = END if most is None else _again(run, most)
    return _script(request, request.directives(tasks), setup, [_rendezvous(request, launcher), body, ending])


def _again(run: Path, most: int) -> str:
    again = f"{_python()} slurm requeue {shlex.quote(str(run))} --most {most} ${{asked:+--asked}}"
    return f'if {again}; then\n  scontrol requeue "$SLURM_JOB_ID"\nelse\n  exit "$code"\nfi\n'


def job_script(request: Request, words: Sequence[str], setup: Iterable[str], most: int) -> str:
    """Return the script of a command that resumes when it is called again, such as `sample`.

    Args:
        request: the resources.
        words: the command and its arguments.
        setup: shell lines to run first, verbatim.
        most: maximum number of requeues.
    """
    srun = f"{_srun(request, request.local_ranks)} {_python()} {shlex.join(words)}"
    body = FORWARD.format(act=TELL, srun=srun)
    ending = (
        f'if [ "$asked" ] && [ "$code" != 0 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {most} ]; then\n'
        '  scontrol requeue "$SLURM_JOB_ID"\nelse\n  exit "$code"\nfi\n'
    )
    return _script(request, request.directives(request.local_ranks), setup, [body, ending])


def array_script(request: Request, words: Sequence[str], setup: Iterable[str], tasks: int | None) -> str:
    """Return the script of `prepare-data`: a job array in which each task processes a part, or a single job.

    Args:
        request: the resources.
        words: the command and its arguments.
        setup: shell lines to run first, verbatim.
        tasks: number of tasks of the array; None: a single job.
    """
    log = "%x-%A-%a.out" if tasks else "%x-%j.out"
    directives = request.directives(1, log=log, array=tasks)
    return _script(request, directives, setup, [f"exec {_python()} {shlex.join(words)}\n"])


def _script(request: Request, directives: Iterable[str], setup: Iterable[str], parts: Iterable[str]) -> str:
    made_by = LINE_ENDS.sub("?", shlex.join(request.words))  # a comment ends with its line
    head = ["#!/bin/bash", f"# Made by: {made_by}", *directives, DROP_LEAKED, *setup, ""]
    return "\n".join([*head, *(part for part in parts if part)])


def _python() -> str:
    return f"python -m {MODULE}"


def _srun(request: Request, tasks_per_node: int) -> str:
    """Return the start of a step; since Slurm 22.05 a step does not inherit --cpus-per-task from the job."""
    cores = request.cores(tasks_per_node)
    return "srun --kill-on-bad-exit=1" + (f" --cpus-per-task={cores}" if cores else "")


def _rendezvous(request: Request, launcher: str) -> str:
    if launcher != "torchrun":
        return ""
    return MEET_IN_FILE if request.nodes == 1 else MEET_AT_PORT


def _torchrun(request: Request) -> str:
    meet = '--rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"'
    where = IN_FILE if request.nodes == 1 else AT_PORT
    agent = f"--nnodes={request.nodes} --nproc-per-node={request.local_ranks} {meet} \\\n  {where}"
    patience = f"--signals-to-handle={SIGNALS} --shutdown-timeout={request.notice_s}"
    return f"{_srun(request, 1)} python -m torch.distributed.run {agent} \\\n  {patience} \\\n  -m {MODULE}"


def _stop(run: Path) -> str:
    """Return the command that asks a run to save and stop: a file, which works with every launcher."""
    return f"touch {shlex.quote(str(run / 'STOP'))}"
