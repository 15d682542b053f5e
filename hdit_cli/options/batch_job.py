"""The options of `hdit slurm`: the resources of a job, and when it ends."""

from typing import Annotated, Any, Literal

import typer

from hdit_core.errors import UsageError

TimeOption = Annotated[str, typer.Option("--time", "-t", metavar="TIME", help="Time limit, e.g. 24:00:00 or 2-12:00.")]
NodesOption = Annotated[int, typer.Option("--nodes", "-N", min=1, help="Number of nodes.")]
GpusOption = Annotated[int, typer.Option("--gpus-per-node", min=0, help="GPUs per node; 0: no GPUs.")]
RanksOption = Annotated[
    int | None,
    typer.Option("--ranks-per-node", min=1, help="Ranks per node.", show_default="one per GPU, or one"),
]
CpusOption = Annotated[
    int | None,
    typer.Option("--cpus-per-task", "-c", min=1, help="CPU cores per rank.", show_default="the cluster's"),
]
NoticeOption = Annotated[
    int,
    typer.Option("--notice", min=30, metavar="SECONDS", help="How long before the time limit the job saves and ends."),
]
MoreOption = Annotated[
    list[str] | None,
    typer.Option("--sbatch", metavar="OPTION", help="Other sbatch option, e.g. partition=gpu; repeatable."),
]
SetupOption = Annotated[
    list[str] | None,
    typer.Option(metavar="LINE", help="Shell line to run first, e.g. 'source venv/bin/activate'; repeatable."),
]
RunRequeuesOption = Annotated[
    int, typer.Option("--requeues", min=0, help="Maximum number of requeues in a row without a newer checkpoint.")
]
RequeuesOption = Annotated[int, typer.Option("--requeues", min=0, help="Maximum number of requeues.")]
LauncherOption = Annotated[
    Literal["torchrun", "srun"],
    typer.Option("--launcher", help="What starts the ranks: torchrun on each node, or srun."),
]
TasksOption = Annotated[
    int | None, typer.Option("--tasks", min=1, help="Tasks of a job array.", show_default="one job")
]


def usage(command: str, arguments: str) -> str:
    """Return the usage of a batch script for a command, without its name."""
    return f"[OPTIONS] {arguments} [OPTIONS OF hdit {command}]"


def check_streams(params: dict[str, Any]) -> None:
    """Refuse stdin and stdout: the stdin of a job is empty, and its stdout is the log.

    Args:
        params: of the command in the script, by name.

    Raises:
        UsageError: one of them is `-`.
    """
    for name in ("source", "images", "data", "ref"):
        if params.get(name) == "-":
            raise UsageError("-: the stdin of a Slurm job is empty; write the data to a file and name the file")
    if str(params.get("out")) == "-":
        raise UsageError("--out -: the images would be written to the job's log; give a folder, a .tar or an .npz")
