"""`hdit train`: a recipe becomes a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdit_cli.console import align, emit, note, progress
from hdit_cli.options.shared import DeviceOption, JsonOption, RecipeArgument, SetOption
from hdit_cli.ranks import main_rank_reports_first
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.recipe.run import Recipe
    from hdit_core.train.dry_run import DryRun
    from hdit_core.train.replay import Replay


app = typer.Typer(add_completion=False)

WatchOption = Annotated[
    list[str] | None,
    typer.Option(
        "--watch", metavar="BOARD", help="tensorboard or wandb, beside the log; repeatable.", show_default=False
    ),
]
ReproOption = Annotated[
    int | None,
    typer.Option(
        "--repro",
        min=0,
        metavar="STEP",
        help="Do this step of the run again, writing nothing there.",
        show_default=False,
    ),
]
SaveImagesOption = Annotated[
    Path | None,
    typer.Option("--save-images", metavar="FILE", help="--repro: a PNG of the step's images.", show_default=False),
]

DeterministicOption = Annotated[
    bool, typer.Option("--deterministic", help="Sum in one order everywhere, or refuse what cannot.")
]


@app.command()
@main_rank_reports_first()
def train(
    recipe: RecipeArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="RUN", help="Folder of the run.", show_default="runs/NAME-OF-RECIPE"),
    ] = None,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    watch: WatchOption = None,
    deterministic: DeterministicOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Take two steps, print memory, speed and days, leave nothing behind.")
    ] = False,
    repro: ReproOption = None,
    save_images: SaveImagesOption = None,
    json: JsonOption = False,
) -> None:
    """Train a recipe; the same command again resumes it.

    A signal (SIGTERM, SIGINT, SIGUSR1, ...) or a file STOP in the run's folder saves and ends with exit code 75.
    A step whose loss is not finite, or a spike, is described in RUN/incidents; --repro STEP does it again.

    Example: hdit train mnist32 --out runs/digits --set train.batch_size=128
    && hdit train mnist32 --dry-run
    && hdit train mnist32 --out runs/digits --repro 12 --save-images step12.png
    """
    from hdit_core.recipe.read import read_recipe

    check_options(watch or [], dry_run, repro, save_images)
    checked = read_recipe(recipe, overrides or ())
    run = out or Path("runs") / Path(recipe).stem
    if dry_run:
        _rehearse(checked, run, device, deterministic, json)
    elif repro is not None:
        _replay(checked, run, repro, device, deterministic, save_images, json)
    else:
        _train(checked, run, device, deterministic, watch or [], json)


def check_options(watch: list[str], dry_run: bool, repro: int | None, save_images: Path | None) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError: saying which.
    """
    if dry_run and repro is not None:
        raise UsageError("--dry-run and --repro are two things to do; give one of them")
    if watch and (dry_run or repro is not None):
        raise UsageError("--watch is for training; --dry-run and --repro write to no board")
    if save_images is not None and repro is None:
        raise UsageError("--save-images is of one step; say which with --repro STEP")
    if save_images is not None and save_images.suffix != ".png":
        raise UsageError(f"--save-images {save_images}: expected a name that ends in .png")
    if save_images is not None and not save_images.parent.is_dir():
        raise UsageError(f"--save-images {save_images}: there is no folder {save_images.parent}")


def _train(recipe: "Recipe", run: Path, device: str, deterministic: bool, watch: list[str], json: bool) -> None:
    from hdit_core.launch import is_main_process
    from hdit_core.train.monitor.callbacks import Callbacks, Progress
    from hdit_core.train.run import train as train_run

    if not is_main_process():
        train_run(recipe, run, device=device, deterministic=deterministic)
        return
    with progress("train", total=recipe.train.num_images) as bar:

        def show(now: Progress) -> None:
            bar.update(now.num_images, now.total_images, f"loss {now.loss:.4f}, gradient {now.grad_norm:.2f}")

        callbacks = Callbacks(show, note, tuple(watch))
        state = train_run(recipe, run, device=device, callbacks=callbacks, deterministic=deterministic)
        bar.update(state.num_images, remark=bar.remark)  # a run that was done before reports no step
    result = {"run": str(run), "step": state.step, "num_images": state.num_images, "elapsed_s": state.elapsed_s}
    emit(result, json)


def _rehearse(recipe: "Recipe", run: Path, device: str, deterministic: bool, json: bool) -> None:
    from hdit_core.checkpoint.status import read_status
    from hdit_core.launch import is_main_process
    from hdit_core.train.dry_run import dry_run
    from hdit_core.train.monitor.callbacks import Callbacks

    callbacks = Callbacks(on_note=note) if is_main_process() else Callbacks()
    done = read_status(run).get("num_images", 0)
    rehearsal = dry_run(recipe, device=device, callbacks=callbacks, done=done, deterministic=deterministic)
    if is_main_process():
        emit(rehearsal.to_json(), json, _lines(rehearsal))


def _lines(rehearsal: "DryRun") -> Iterator[str]:
    ranks = f"{rehearsal.ranks} rank{'s' * (rehearsal.ranks > 1)}"
    share = "" if rehearsal.utilisation is None else f", {rehearsal.utilisation:.0%} of the stated peak"
    speed = f"{rehearsal.images_per_s:,.3g} images/s, {rehearsal.step_s:.3g} s a step"
    yield from align(
        [
            ("network", f"{rehearsal.parameters:,} parameters"),
            ("step", f"{rehearsal.batch_size:,} images on {ranks}, loss {rehearsal.loss:.4g}"),
            ("memory", f"{rehearsal.peak_bytes / 1e9:,.3g} GB at most on the main rank"),
            ("speed", f"{speed}, {rehearsal.flops_per_s / 1e9:,.3g} GFLOP/s{share}"),
            ("waiting", f"{rehearsal.waiting:.0%} of a step for images"),
            ("to go", f"{rehearsal.images_left:,} images, {rehearsal.days:,.3g} days"),
        ]
    )


def _replay(
    recipe: "Recipe", run: Path, step: int, device: str, deterministic: bool, save_images: Path | None, json: bool
) -> None:
    from hdit_core.launch import is_main_process
    from hdit_core.train.monitor.callbacks import Callbacks
    from hdit_core.train.replay import replay

    if not is_main_process():
        replay(recipe, run, step, device=device, save_images=save_images, deterministic=deterministic)
        return
    with progress("repro", unit="steps") as bar:
        callbacks = Callbacks(on_note=note)
        found = replay(
            recipe,
            run,
            step,
            device=device,
            callbacks=callbacks,
            save_images=save_images,
            on_step=bar.update,
            deterministic=deterministic,
        )
    emit(found.to_json(), json, _rows(found))


def _rows(found: "Replay") -> Iterator[str]:
    columns = ("number", "index", "sigma", "loss", "gradient", "finite")
    rows = [
        (
            str(image.number),
            str(image.index),
            f"{image.sigma:.4g}",
            f"{image.loss:.4g}",
            "-" if image.grad_norm is None else f"{image.grad_norm:.4g}",
            "yes" if image.finite else "no",
        )
        for image in found.images
    ]
    yield from align([columns, *rows])
    state = "finite" if found.finite else "not finite"
    yield f"step {found.step}: {state}, loss {found.result.loss:.4g}, gradient {found.result.grad_norm:.4g}"
