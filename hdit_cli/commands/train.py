"""`hdit train`: trains, resumes or forks a run; dry runs; re-executes a step."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hdit_cli.console import align, duration, emit, progress
from hdit_cli.options.grouped import grouped_options
from hdit_cli.options.shared import DeviceOption, JsonOption, SetOption
from hdit_cli.options.training import (
    CheckOptions,
    DeterministicOption,
    RunOption,
    RunRecipeArgument,
    StartOptions,
    TrackerOption,
    check_options,
)
from hdit_cli.ranks import main_rank_reports_first
from hdit_core.errors import UsageError, counted
from hdit_core.launch import is_main_process

if TYPE_CHECKING:
    from hdit_core.recipe.run import Recipe
    from hdit_core.train.dry_run import DryRun
    from hdit_core.train.replay import Replay
    from hdit_core.train.start.fork import ForkSource


app = typer.Typer(add_completion=False)


@app.command()
@main_rank_reports_first()
@grouped_options
def train(
    *,
    recipe: RunRecipeArgument = None,
    overrides: SetOption = None,
    start: StartOptions,
    out: RunOption = None,
    watch: TrackerOption = None,
    json: JsonOption = False,
    check: CheckOptions,
    device: DeviceOption = "auto",
    deterministic: DeterministicOption = False,
) -> None:
    """Train a recipe; rerun the same command to resume.

    Writes checkpoints (train.checkpoint_every_images), log.jsonl, image grids (train.sample_every_images), scores
    (train.eval_every_images) and loss spikes (incidents/). At Ctrl-C, SIGTERM, SIGUSR1 or a file STOP in the run
    directory, saves and exits with code 75; at a second Ctrl-C, exits at once. For several GPUs use torchrun or srun.

    Examples:
      hdit train mnist32 --out runs/digits
      hdit train mnist32 --dry-run --set train.batch_size=128
      torchrun --nproc-per-node 8 -m hdit_cli train imagenet256 --out runs/a
      hdit train --resume runs/digits
      hdit train mnist32 --out runs/b --from runs/digits@750 --set train.lr=5e-4
      hdit train --resume runs/digits --repro 12 --save-images step12.png
    """
    check_options(recipe, out, start, check, watch or [])
    if start.resume is not None:
        recipe, out = str(_recipe_of(start.resume)), start.resume
    assert recipe is not None  # checked by check_options
    checked, run = _read(recipe, overrides or [], out, dry_run=check.dry_run)
    if check.dry_run:
        _dry_run(checked, run, device, deterministic, json)
    elif check.repro is not None:
        _replay(checked, run, check.repro, device, deterministic, check.save_images, json)
    else:
        _train(checked, run, device, deterministic, watch or [], json, _fork_source(start))


def _recipe_of(run: Path) -> Path:
    from hdit_core.checkpoint.layout import recipe_file

    if not recipe_file(run).is_file():
        problem = "is not a run of hdit (no recipe.toml in it)" if run.is_dir() else "no such directory"
        raise UsageError(f"--resume {run}: {problem}")
    return recipe_file(run)


def _read(recipe: str, overrides: list[str], out: Path | None, *, dry_run: bool) -> tuple["Recipe", Path]:
    """Return the checked recipe and the run directory; its data have to exist."""
    from hdit_core.files import read_text
    from hdit_core.recipe.read import find_recipe, read_recipe
    from hdit_core.train.start.checks import check_data_folder

    _refuse_run(Path(recipe), out, dry_run=dry_run)
    checked = read_recipe(recipe, overrides)
    file = find_recipe(recipe)
    text = read_text(file)
    check_data_folder(checked, text)
    return checked, out or Path("runs") / Path(recipe).stem


def _refuse_run(path: Path, out: Path | None, *, dry_run: bool) -> None:
    """Refuse a run directory in place of a recipe: it would start another run from the beginning."""
    from hdit_core.checkpoint.layout import recipe_file, status_file

    run = path if path.is_dir() else path.parent
    is_run = recipe_file(run).is_file() and status_file(run).is_file() and path in (run, recipe_file(run))
    if is_run and dry_run:
        if path == run:
            raise UsageError(f"{path}: is a run; for a dry run of its recipe: hdit train {recipe_file(run)} --dry-run")
        return
    if is_run and (out is None or path == run):
        raise UsageError(
            f"{path}: belongs to the run {run}, and would start another run from the beginning. To resume it: hdit "
            f"train --resume {run}. To continue it with other settings: hdit train {recipe_file(run)} --out NEW "
            f"--from {run}. To start over: hdit train {recipe_file(run)} --out NEW"
        )


def _fork_source(start: StartOptions) -> "ForkSource | None":
    if start.source is None:
        return None
    from hdit_core.train.start.fork import parse_source

    return parse_source(start.source, start.reset or ())


def _train(
    recipe: "Recipe",
    run: Path,
    device: str,
    deterministic: bool,
    trackers: list[str],
    json: bool,
    fork: "ForkSource | None",
) -> None:
    from hdit_core.train.monitor.callbacks import showing
    from hdit_core.train.run import train as train_run

    settings: dict[str, Any] = {"device": device, "deterministic": deterministic, "fork": fork}
    if not is_main_process():
        train_run(recipe, run, **settings)
        return
    with progress("train", total=recipe.train.num_images) as bar:
        state = train_run(recipe, run, callbacks=showing(bar, tuple(trackers)), **settings)
        bar.update(state.num_images, remark=bar.remark, per_s=bar.per_s)  # a finished run reports no step
    result = {"run": str(run), "step": state.step, "num_images": state.num_images, "elapsed_s": state.elapsed_s}
    emit(result, json)


def _dry_run(recipe: "Recipe", run: Path, device: str, deterministic: bool, json: bool) -> None:
    from hdit_core.train.dry_run import dry_run

    result = dry_run(recipe, run, device=device, deterministic=deterministic)
    if is_main_process():
        emit(result.to_json(), json, _lines(result))


def _lines(result: "DryRun") -> Iterator[str]:
    gib = 1 << 30
    ranks = f"{result.ranks} rank{'s' * (result.ranks > 1)}"
    share = "" if result.utilisation is None else f", {result.utilisation:.0%} MFU"
    speed = f"{result.images_per_s:,.3g} images/s, {result.step_s:.3g} s/step"
    has = "" if result.machine_bytes is None else f", this machine has {result.machine_bytes / gib:.3g} GiB"
    micro_batch = f"{counted(result.micro_batch_size, 'image')} at a time"
    if result.largest_micro_batch_size:
        micro_batch += f"; by the plan {result.largest_micro_batch_size:,} fit in memory (train.micro_batch_size)"
    yield from align(
        [
            ("network", f"{result.parameters:,} parameters"),
            ("step", f"{result.batch_size:,} images on {ranks}, loss {result.loss:.4g}"),
            (
                "memory",
                f"needs {result.peak_bytes / gib:.3g} GiB (plan: {result.planned_bytes / gib:.3g}){has}",
            ),
            ("micro-batch", micro_batch),
            ("throughput", f"{speed}, {result.flops_per_s / 1e9:,.3g} GFLOP/s{share}"),
            ("data wait", f"{result.waiting:.0%} of a step"),
            ("remaining", f"{result.images_left:,} images, {duration(result.days * 86_400)}"),
        ]
    )


def _replay(
    recipe: "Recipe", run: Path, step: int, device: str, deterministic: bool, save_images: Path | None, json: bool
) -> None:
    from hdit_core.train.replay import replay

    settings: dict[str, Any] = {"device": device, "save_images": save_images, "deterministic": deterministic}
    if not is_main_process():
        replay(recipe, run, step, **settings)
        return
    with progress("repro", unit="steps") as bar:
        result = replay(recipe, run, step, on_step=bar.update, **settings)
    emit(result.to_json(), json, _rows(result))


def _rows(result: "Replay") -> Iterator[str]:
    columns = ("number", "index", "sigma", "loss", "grad norm", "finite")
    rows = [
        (
            str(image.number),
            str(image.index),
            f"{image.sigma:.4g}",
            f"{image.loss:.4g}",
            "-" if image.grad_norm is None else f"{image.grad_norm:.4g}",
            "yes" if image.finite else "no",
        )
        for image in result.images
    ]
    yield from align([columns, *rows])
    state = "finite" if result.finite else "not finite"
    yield f"step {result.step}: {state}, loss {result.result.loss:.4g}, grad norm {result.result.grad_norm:.4g}"
