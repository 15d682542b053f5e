"""The options of `hdit slurm`: the resources of a job, and when it ends."""

from typing import Annotated, Literal

import typer

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
