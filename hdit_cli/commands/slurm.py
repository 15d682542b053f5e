"""`hdit slurm`: batch scripts on stdout, for `hdit slurm train RECIPE --time 24:00:00 | sbatch`."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hdit_cli.console import note
from hdit_cli.default_command import DefaultGroup
from hdit_cli.help_format import HelpGroup
from hdit_cli.options.batch_job import (
    CpusOption,
    GpusOption,
    LauncherOption,
    MoreOption,
    NodesOption,
    NoticeOption,
    RanksOption,
    RequeuesOption,
    RunRequeuesOption,
    SetupOption,
    TasksOption,
    TimeOption,
    check_streams,
    usage,
)
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from hdit_core.recipe.run import Recipe
    from hdit_core.slurm.batch_script import Request


Options = TypeVar("Options", bound="DataclassInstance")
WORDS = "hdit slurm: words"


class SlurmGroup(HelpGroup):
    """The subcommands, with the words of the command line in their context."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, and keep them."""
        ctx.meta[WORDS] = ("hdit", "slurm", *args)
        return super().parse_args(ctx, args)


app = typer.Typer(cls=SlurmGroup, add_completion=False, rich_markup_mode=None)

CPU_FLOPS_PER_S = 100e9  # per rank; optimistic
MOST_CPU_DAYS = 7

PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True}


@app.callback()
def slurm() -> None:
    """Print batch scripts for Slurm.

    A script runs the command of hdit with the same name. Its arguments and options are given here, too, and passed on.

    Example:
      hdit slurm train imagenet256 --gpus-per-node 8 --time 24:00:00 | sbatch
    """


@app.command(context_settings=PASS_ON, options_metavar=usage("train", "RECIPE"))
def train(
    ctx: typer.Context,
    time: TimeOption,
    nodes: NodesOption = 1,
    gpus: GpusOption = 0,
    ranks: RanksOption = None,
    cpus: CpusOption = None,
    notice: NoticeOption = 300,
    requeues: RunRequeuesOption = 3,
    launcher: LauncherOption = "torchrun",
    more: MoreOption = None,
    setup: SetupOption = None,
) -> None:
    """Print a batch script for hdit train, which resumes.

    The job saves a checkpoint and is requeued at its time limit, after preemption and after a crash. Before the script
    is printed, the recipe is validated, the batch size has to be divisible by the number of ranks, and --from has to
    exist. With --dry-run or --repro, the job is not requeued.

    Example:
      hdit slurm train imagenet256 --out runs/a --nodes 8 --gpus-per-node 8 \\
        --time 24:00:00 | sbatch
    """
    from hdit_core.checkpoint.layout import recipe_file
    from hdit_core.plan.plan import images_per_device
    from hdit_core.recipe.read import read_recipe
    from hdit_core.slurm.batch_script import train_script

    params = _train_parameters(ctx.args)
    recipe = str(recipe_file(params["resume"])) if params["resume"] else params["recipe"]
    run = Path(params["resume"] or params["out"] or Path("runs") / Path(recipe).stem)
    request = _request(ctx, f"hdit-{run.name}", time, nodes, gpus, ranks, cpus, notice, more)
    parsed = read_recipe(recipe, params.get("overrides") or ())
    images_per_device(parsed, request.ranks, "the job's ranks")
    _check_fork(params, parsed, run)
    _warn_without_gpus(parsed, request)
    once = params.get("dry_run") or params.get("repro") is not None
    typer.echo(train_script(request, ctx.args, run, setup or (), launcher, None if once else requeues), nl=False)


def _train_parameters(words: list[str]) -> dict[str, Any]:
    """Return the parameters of `hdit train` in these words, checked like the command's own."""
    from hdit_cli.options.training import CheckOptions, StartOptions, check_options
    from hdit_core.train.monitor.trackers import check_names

    params = _parsed("train", words)
    start, check = _group(StartOptions, params), _group(CheckOptions, params)
    check_options(params["recipe"], params["out"], start, check, params["watch"] or [])
    check_names(params["watch"] or [])
    return params


def _check_fork(params: dict[str, Any], recipe: "Recipe", run: Path) -> None:
    """Check --from as the job will: the parent has the checkpoint, which allows the changes of the recipe."""
    if params["source"] is None:
        return None
    from hdit_core.checkpoint.layout import checkpoint_folders
    from hdit_core.train.start.fork import check_fork, check_forked_from, open_parent, parse_source

    source = parse_source(params["source"], params["reset"] or ())
    if checkpoint_folders(run):
        return check_forked_from(run, source)
    return check_fork(open_parent(source), recipe, 1, source)


def _offer_job(command: str, arguments: str, help_text: str) -> None:
    """Add the subcommand for a command that resumes when it is called again."""

    @app.command(command, help=help_text, context_settings=PASS_ON, options_metavar=usage(command, arguments))
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

        params = _parsed(command, ctx.args)
        check_streams(params)
        if command == "eval-fid":
            _check_score(params)
        request = _request(ctx, f"hdit-{command}", time, nodes, gpus, ranks, cpus, notice, more)
        typer.echo(job_script(request, [command, *ctx.args], setup or (), requeues), nl=False)


_offer_job(
    "sample",
    "--ckpt CKPT",
    """Print a batch script for hdit sample, which resumes.

    Example:
      hdit slurm sample --ckpt runs/a --count 50000 --gpus-per-node 8 \\
        --time 4:00:00 | sbatch
    """,
)
_offer_job(
    "eval-fid",
    "IMAGES",
    """Print a batch script for hdit eval-fid.

    Example:
      hdit slurm eval-fid samples/ --ref data/faces --gpus-per-node 1 \\
        --time 1:00:00 | sbatch
    """,
)


@app.command("prepare-data", context_settings=PASS_ON, options_metavar=usage("prepare-data", "SOURCE"))
def prepare_data(
    ctx: typer.Context,
    time: TimeOption,
    tasks: TasksOption = None,
    cpus: CpusOption = None,
    more: MoreOption = None,
    setup: SetupOption = None,
) -> None:
    """Print a batch script for hdit prepare-data.

    With --tasks, the images are split among the tasks of a job array. After it has ended, run the same command with
    --finish instead of --tasks.

    Example:
      hdit slurm prepare-data photos/ --out data/a --size 256 --tasks 50 \\
        --time 2:00:00 | sbatch
    """
    from hdit_core.slurm.batch_script import array_script

    params = _parsed("prepare-data", ctx.args)
    check_streams(params)
    if tasks and params.get("finish"):
        raise UsageError("--finish with --tasks: merging is a single job that waits for the array; remove --tasks")
    if tasks and params.get("task"):
        raise UsageError("--task with --tasks: every job of the array would process that same part; remove --task")
    request = _request(ctx, "hdit-prepare", time, 1, 0, None, cpus, 0, more)  # it resumes without a signal
    typer.echo(array_script(request, ["prepare-data", *ctx.args], setup or (), tasks), nl=False)
    if tasks:
        note("next: the same command with --finish instead of --tasks, | sbatch --dependency=afterok:ID_OF_THE_ARRAY")


@app.command("again", hidden=True)  # in scripts of older versions
@app.command(hidden=True)
def requeue(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    most: Annotated[int, typer.Option(min=0, help="Maximum attempts without a newer checkpoint.")] = 3,
    asked: Annotated[bool, typer.Option("--asked", help="Slurm ended the job, not a person.")] = False,
) -> None:
    """Decide whether a run is requeued: exit code 0 for yes and 1 for no.

    Example: hdit slurm requeue runs/a --most 3
    """
    from hdit_core.slurm.requeue import should_requeue

    decision = should_requeue(run, most, asked)
    note(decision.reason)
    raise typer.Exit(0 if decision.requeue else 1)


def _parsed(command: str, args: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of the command, so that mistakes are reported now and not when the job starts."""
    from hdit_cli.plugins import discover_commands, load_command

    parser, words = load_command(command, discover_commands()[command]), list(args)
    with parser.make_context(f"hdit {command}", list(words)) as context:
        if not isinstance(parser, DefaultGroup):
            return dict(context.params)
        chosen, words = parser.chosen(context, words)
        with chosen.make_context(chosen.name, words, parent=context) as inner:
            return dict(inner.params)


def _group(options: type[Options], params: dict[str, Any]) -> Options:
    """Return a group of options with the parameters of a command."""
    return options(**{field.name: params[field.name] for field in fields(options)})


def _check_score(params: dict[str, Any]) -> None:
    """Refuse contradicting options of a score, as the command itself does."""
    if "images" not in params:
        return  # `stats` or `compare`
    from hdit_cli.options.attachments import value_ranges
    from hdit_cli.options.evaluation import GeneratedOptions, ScoringOptions
    from hdit_core.evaluate.settings import ScoreSettings, check_settings

    groups = _group(GeneratedOptions, params).settings | _group(ScoringOptions, params).settings
    single = {name: params[name] for name in ("paired", "report", "nearest", "save_stats", "keep_features")}
    single["value_range"] = value_ranges("--range", params["value_range"])
    check_settings(ScoreSettings(params["images"], params["ref"], **groups, **single))


def _warn_without_gpus(recipe: "Recipe", request: "Request") -> None:
    """Warn about a job without GPUs that would take more than a week."""
    if request.gpus_per_node:
        return
    from hdit_core.flops.count import count

    training_flops = 3 * count(recipe.model).flops * recipe.train.num_images  # the backward pass is two forward passes
    days = training_flops / (CPU_FLOPS_PER_S * request.ranks) / 86_400
    if days > MOST_CPU_DAYS:
        note(
            f"warning: the job has no GPUs (--gpus-per-node 0): at {CPU_FLOPS_PER_S / 1e9:g} GFLOP/s per rank this run "
            f"takes {days:,.0f} days; add --gpus-per-node N"
        )


def _request(
    ctx: typer.Context,
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

    return Request(name, time, nodes, gpus, ranks, cpus, notice, tuple(more or ()), ctx.meta[WORDS])
