"""The options of `hdit train`, and which of them exclude each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hdit_cli.options.shared import recipe_names
from hdit_core.errors import UsageError
from hdit_core.files import check_output

START, OUTPUT, CHECK, COMPUTE = "Start, resume, fork", "Output", "Try and debug", "Performance"

RunRecipeArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="TOML file, or the name of a built-in recipe (hdit recipe list).",
        autocompletion=recipe_names,
    ),
]
RunOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="RUN",
        help="Run directory.",
        show_default="runs/NAME-OF-RECIPE",
        rich_help_panel=OUTPUT,
    ),
]
TrackerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker",
        "--watch",
        metavar="TRACKER",
        help="Also log to tensorboard (in RUN/tensorboard) or wandb (in RUN/wandb); repeatable. Needs the extra "
        "hdit-toolkit[tensorboard] or hdit-toolkit[wandb].",
        rich_help_panel=OUTPUT,
    ),
]
DeterministicOption = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Use deterministic algorithms; fail if an operation has none.",
        rich_help_panel=COMPUTE,
    ),
]


@dataclass(frozen=True)
class StartOptions:
    """The start of a run: a checkpoint to resume or fork."""

    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Resume this run with its own recipe, without RECIPE and --out, also with another number of GPUs. "
            "--set can change some keys, such as train.num_images and data.path; for others, fork with --from.",
            rich_help_panel=START,
        ),
    ] = None
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN[@STEP]",
            help="Fork: start the new run --out from a checkpoint of another run (default: its newest), with its "
            "weights, optimizer, EMA, counters and data position. RECIPE is the whole recipe of the new run; "
            "RUN/recipe.toml has the settings that the other run got with --set. For other data add --reset optimizer "
            "--reset counter. To take over the weights alone, also of a file or an address: --set "
            "train.init_from=CKPT, without --from.",
            rich_help_panel=START,
        ),
    ] = None
    reset: Annotated[
        list[str] | None,
        typer.Option(
            "--reset",
            metavar="optimizer|ema|counter",
            help="With --from: reinitialize this state; repeatable. counter resets images, steps and data position.",
            rich_help_panel=START,
        ),
    ] = None


@dataclass(frozen=True)
class CheckOptions:
    """Checks that are run instead of training."""

    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Run two steps on the prepared data and report memory, throughput and training time; writes nothing. "
            "If memory is short, lower train.micro_batch_size, which accumulates gradients.",
            rich_help_panel=CHECK,
        ),
    ] = False
    repro: Annotated[
        int | None,
        typer.Option(
            "--repro",
            min=0,
            metavar="STEP",
            help="Re-execute one step of the run, for debugging; the run is not modified.",
            rich_help_panel=CHECK,
        ),
    ] = None
    save_images: Annotated[
        Path | None,
        typer.Option(
            "--save-images",
            metavar="FILE.png",
            help="With --repro: also write the images that the step was trained on.",
            rich_help_panel=CHECK,
        ),
    ] = None


def check_options(
    recipe: str | None, out: Path | None, start: StartOptions, check: CheckOptions, trackers: list[str]
) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError: two options exclude each other, or one requires another.
    """
    if recipe is None and start.resume is None and start.source is not None:
        run = start.source.partition("@")[0]
        raise UsageError(f"--from needs the RECIPE of the new run, too, such as {run}/recipe.toml")
    if (recipe is None) == (start.resume is None):
        raise UsageError("give either RECIPE, or --resume RUN")
    if start.resume is not None and (out is not None or start.source is not None):
        raise UsageError("--resume continues a run in its directory; leave out --out and --from")
    if start.source is not None and out is None:
        raise UsageError("--from starts a new run; name its directory with --out NEW")
    if start.reset and start.source is None:
        raise UsageError("--reset is for forks; name the parent run with --from RUN")
    if check.dry_run and check.repro is not None:
        raise UsageError("--dry-run and --repro exclude each other")
    if check.dry_run or check.repro is not None:
        if trackers:
            raise UsageError("--tracker is for training; --dry-run and --repro log nothing")
        if start.source is not None:
            raise UsageError("--from is for training; leave it out with --dry-run and --repro")
    if check.save_images is not None and check.repro is None:
        raise UsageError("--save-images saves the images of one step; name the step with --repro STEP")
    check_output("--save-images", check.save_images, ".png")
