"""`hdit slurm`: batch scripts on stdout, for `hdit slurm train RECIPE --time 24:00:00 | sbatch`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hdit_cli.console import note
from hdit_cli.default_command import DefaultGroup
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.slurm.batch_script import Request


app = typer.Typer(add_completion=False, rich_markup_mode=None)

PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True}

TimeOption = Annotated[
    str, typer.Option("--time", "-t", metavar="TIME", help="Limit, e.g. 24:00:00 or 2-12:00.", show_default=False)
]
NodesOption = Annotated[int, typer.Option("--nodes", "-N", min=1, metavar="N", help="Machines.")]
GpusOption = Annotated[int, typer.Option("--gpus-per-node", min=0, metavar="N", help="GPUs on each.")]
RanksOption = Annotated[
    int | None,
    typer.Option("--ranks-per-node", min=1, metavar="N", help="Processes on each.", show_default="one a GPU, or one"),
]
CpusOption = Annotated[
    int | None,
    typer.Option("--cpus-per-task", "-c", min=1, metavar="N", help="Cores a process.", show_default="the cluster's"),
]
NoticeOption = Annotated[
    int, typer.Option("--notice", min=30, metavar="S", help="Seconds before the limit at which a job saves and ends.")
]
MoreOption = Annotated[
    list[str] | None,
    typer.Option("--sbatch", metavar="OPTION", help="Any other, e.g. partition=gpu; repeatable.", show_default=False),
]
SetupOption = Annotated[
    list[str] | None,
    typer.Option(metavar="LINE", help="Shell that comes first, e.g. 'source venv/bin/activate'; repeatable."),
]
RequeuesOption = Annotated[
    int, typer.Option("--requeues", min=0, metavar="N", help="Times it is queued again without having come further.")
]


@app.callback()
def slurm() -> None:
    """Print batch scripts for Slurm.

    What is not an option here goes to the command in the script.

    Example: hdit slurm train imagenet256 --nodes 2 --gpus-per-node 8 --time 24:00:00 | sbatch
    """


@app.command(context_settings=PASS_ON)
def train(
    ctx: typer.Context,
    time: TimeOption,
    nodes: NodesOption = 1,
    gpus: GpusOption = 0,
    ranks: RanksOption = None,
    cpus: CpusOption = None,
    notice: NoticeOption = 300,
    requeues: RequeuesOption = 3,
    launcher: Annotated[
        Literal["torchrun", "srun"], typer.Option(help="Who starts the ranks: torchrun on each node, or srun itself.")
    ] = "torchrun",
    more: MoreOption = None,
    setup: SetupOption = None,
) -> None:
    """Print the script of a run that goes on after time limits, preemptions and crashes.

    The recipe is read, and the ranks are counted against its batch size, before anything waits in a queue. With
    --dry-run or --repro it is the script of one that does so once.

    Example: hdit slurm train imagenet256 --out runs/a --nodes 8 --gpus-per-node 8 --time 24:00:00 | sbatch
    """
    from hdit_cli.commands.train import check_options
    from hdit_core.plan.plan import images_per_device
    from hdit_core.recipe.read import read_recipe
    from hdit_core.slurm.batch_script import train_script
    from hdit_core.train.monitor.trackers import check_names

    given = _parsed("train", ctx.args)
    check_options(given["watch"] or [], given["dry_run"], given["repro"], given["save_images"])
    check_names(given["watch"] or [])
    recipe, out = given["recipe"], given.get("out")
    run = Path(out or Path("runs") / Path(recipe).stem)
    request = _request(f"hdit-{run.name}", time, nodes, gpus, ranks, cpus, notice, more)
    images_per_device(read_recipe(recipe, given.get("overrides") or ()), request.ranks, "the job's ranks")
    once = given.get("dry_run") or given.get("repro") is not None
    typer.echo(train_script(request, ctx.args, run, setup or (), launcher, None if once else requeues), nl=False)


def _offer_job(command: str, help_text: str) -> None:
    """Add the subcommand for a command whose job goes on with what is missing when it is called again."""

    @app.command(command, help=help_text, context_settings=PASS_ON)
    def job(
        ctx: typer.Context,
        time: TimeOption,
        nodes: NodesOption = 1,
        gpus: GpusOption = 0,
        ranks: RanksOption = None,
        cpus: CpusOption = None,
        notice: NoticeOption = 60,
        requeues: RequeuesOption = 3,
        more: MoreOption = None,
        setup: SetupOption = None,
    ) -> None:
        from hdit_core.slurm.batch_script import job_script

        given = _parsed(command, ctx.args)
        _check_streams(given)
        if command == "eval-fid":
            _check_score(given)
        request = _request(f"hdit-{command}", time, nodes, gpus, ranks, cpus, notice, more)
        typer.echo(job_script(request, [command, *ctx.args], setup or (), requeues), nl=False)


_offer_job(
    "sample",
    """Print the script of a job that draws images, and goes on with what is missing.

    Example: hdit slurm sample --ckpt runs/a --n 50000 --gpus-per-node 8 --time 4:00:00 | sbatch
    """,
)
_offer_job(
    "eval-fid",
    """Print the script of a job that scores images.

    Example: hdit slurm eval-fid samples/ --ref data/faces --gpus-per-node 1 --time 1:00:00 | sbatch
    """,
)


@app.command("prepare-data", context_settings=PASS_ON)
def prepare_data(
    ctx: typer.Context,
    time: TimeOption,
    tasks: Annotated[
        int | None, typer.Option("--tasks", min=1, metavar="N", help="Of a job array.", show_default="one job")
    ] = None,
    cpus: CpusOption = None,
    more: MoreOption = None,
    setup: SetupOption = None,
) -> None:
    """Print the script of a preparation, shared by the tasks of a job array; --finish comes after them.

    Example: hdit slurm prepare-data photos/ --out data/a --size 256 --tasks 50 --time 2:00:00 | sbatch
    """
    from hdit_core.slurm.batch_script import array_script

    given = _parsed("prepare-data", ctx.args)
    _check_streams(given)
    if tasks and given.get("finish"):
        raise UsageError("--finish with --tasks: the last step is one job that waits for the array; leave out --tasks")
    if tasks and given.get("task"):
        raise UsageError("--task with --tasks: every job of the array would make that one share; leave out --task")
    request = _request("hdit-prepare", time, 1, 0, None, cpus, 0, more)  # told or not, it keeps what it has made
    typer.echo(array_script(request, ["prepare-data", *ctx.args], setup or (), tasks), nl=False)
    if tasks:
        note("then the same with --finish instead of --tasks, | sbatch --dependency=afterok:ID of the array")


@app.command(hidden=True)
def again(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")],
    most: Annotated[int, typer.Option(min=0, metavar="N", help="Attempts in a row without a newer checkpoint.")] = 3,
    asked: Annotated[bool, typer.Option("--asked", help="Slurm asked the job to end, and not a person.")] = False,
) -> None:
    """Decide whether a run goes back into the queue: exit code 0 for yes and 1 for no.

    Example: hdit slurm again runs/a --most 3
    """
    from hdit_core.slurm.requeue import should_requeue

    decision = should_requeue(run, most, asked)
    note(decision.reason)
    raise typer.Exit(0 if decision.requeue else 1)


def _parsed(command: str, args: Sequence[str]) -> dict[str, Any]:
    """Return what the command would be given, so that a mistake shows now and not when the job starts."""
    from hdit_cli.plugins import discover_commands, load_command

    parser, words = load_command(command, discover_commands()[command]), list(args)
    with parser.make_context(f"hdit {command}", list(words)) as context:
        if not isinstance(parser, DefaultGroup):
            return dict(context.params)
        chosen, words = parser.chosen(context, words)
        with chosen.make_context(chosen.name, words, parent=context) as inner:
            return dict(inner.params)


def _check_streams(given: dict[str, Any]) -> None:
    """Refuse what comes from stdin or goes to stdout: a job has the one empty, and the other is its log."""
    for name in ("source", "images", "data", "ref"):
        if given.get(name) == "-":
            raise UsageError("-: a job of Slurm is given nothing on stdin; keep it in a file, and name that")
    if str(given.get("out")) == "-":
        raise UsageError("--out -: the images would go into the job's log; give a folder, a .tar or an .npz")


def _check_score(given: dict[str, Any]) -> None:
    """Refuse a score that contradicts itself, with the words of the command."""
    if "images" not in given:
        return  # `stats` or `compare`
    from hdit_core.evaluate.settings import ScoreSettings, check_settings

    drawn = {"checkpoint": given["ckpt"], "checkpoint_weights": given["weights"], "labels": given["labels"].value}
    files = {name: given[name] for name in ("nearest", "report", "save_stats")}
    check_settings(ScoreSettings(given["images"], given["ref"], **drawn, **files, overrides=given["overrides"] or ()))


def _request(
    name: str,
    time: str,
    nodes: int,
    gpus: int,
    ranks: int | None,
    cpus: int | None,
    notice: int,
    more: Sequence[str] | None,
) -> "Request":
    from hdit_core.slurm.batch_script import Request

    return Request(name, time, nodes, gpus, ranks, cpus, notice, tuple(more or ()))
