"""`hdit sample`: images from a checkpoint."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdit_cli.console import align, emit, note
from hdit_cli.options import (
    BatchSizeOption,
    CheckpointOption,
    DeviceOption,
    JsonOption,
    SeedOption,
    SizeOption,
    Weights,
    WeightsOption,
    image_size,
)
from hdit_cli.sample_output import STDOUT, check_out, deliver, grid_shape
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.generate.job import Job

app = typer.Typer(add_completion=False)

RECIPES = "the recipe's"
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


@app.command()
def sample(
    ckpt: CheckpointOption,
    num: Annotated[
        int,
        typer.Option("--n", "--count", min=1, metavar="N", help="How many images; torchrun passes on only --count."),
    ] = 64,
    numbers: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            metavar="LIST",
            help="Which images, e.g. 0-63,100; image i of a --seed has noise of its own.",
            show_default="the first N",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="PATH", help="Folder, or a file .tar or .npz, or - (tar to stdout).")
    ] = Path("samples"),
    seed: SeedOption = 0,
    class_id: Annotated[
        int | None,
        typer.Option("--class", min=0, metavar="ID", help="One class for all images.", show_default="each in turn"),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(min=0, metavar="W", help="Classifier-free guidance; 1: none.", show_default=RECIPES),
    ] = None,
    sampler: Annotated[str | None, typer.Option(metavar="NAME", show_default=RECIPES, help="Such as dpmpp_2m.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, metavar="N", show_default=RECIPES, help="Sampler steps.")] = None,
    weights: WeightsOption = Weights.EMA,
    size: SizeOption = None,
    grid: Annotated[
        str | None,
        typer.Option(metavar="ROWSxCOLUMNS", help="Shape of grid.png.", show_default="the first 100, square"),
    ] = None,
    trajectory: Annotated[
        Path | None,
        typer.Option(metavar="FILE.webp", help="Animate the way of the first 16 images.", show_default=False),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="As many as fit into 90s, 10m or 2h.", show_default=False)
    ] = None,
    batch_size: BatchSizeOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Draw images from a run or a checkpoint.

    Image i of a seed is the same in every batch and on any number of ranks. A folder gets one PNG each, and grid.png;
    the same command again keeps what is there and draws what is missing.

    Example: hdit sample --ckpt runs/digits --n 100 --guidance 2 --out digits/
    """
    given = {"guidance": guidance, "sampler": sampler, "steps": steps, "batch_size": batch_size}
    pixels = image_size(size) if size is not None else None
    columns = grid_shape(grid) if grid is not None else None
    budget_s = _seconds(budget) if budget is not None else None
    _check_targets(out, trajectory, grid, budget)

    from hdit_core.checkpoint import load_denoiser
    from hdit_core.checkpoint.denoiser import attention_notes
    from hdit_core.devices import pick_device
    from hdit_core.distributed import join
    from hdit_core.generate.generate import check_classes, check_size
    from hdit_core.generate.job import Job
    from hdit_core.generate.ranges import read_ranges
    from hdit_core.generate.settings import sample_settings

    wanted = list(range(num)) if numbers is None else read_ranges(numbers)
    here = pick_device(device)
    denoiser = load_denoiser(ckpt, weights.value, here)
    settings = sample_settings(denoiser.recipe, **given)
    model = denoiser.recipe.model
    job = Job(denoiser, wanted, seed, settings, pixels or model.image_size, class_id, budget_s)
    check_size(model, job.image_size)
    check_classes(model.num_classes, wanted[:1], None if class_id is None else [class_id])

    world = join(device)
    if world.is_main:
        for line in attention_notes(denoiser):
            note(line)
    try:
        record = deliver(job, out, world, columns)
        if trajectory is not None and world.is_main:
            _animate(job, trajectory)
    finally:
        world.leave()
    if world.is_main:
        result = {"out": str(out), "ckpt": str(ckpt), "weights": weights.value, **record}
        lines = align([(key, str(value)) for key, value in result.items() if key != "origin"])
        emit(result, json, lines, err=out == STDOUT)


def _animate(job: "Job", path: Path) -> None:
    from hdit_core.files import write_whole
    from hdit_core.generate.trajectory import MOST_IMAGES, trajectory_webp

    numbers = job.numbers[:MOST_IMAGES]
    classes = None if job.class_id is None else [job.class_id] * len(numbers)
    content = trajectory_webp(
        job.denoiser, numbers, seed=job.seed, class_ids=classes, settings=job.settings, image_size=job.image_size
    )
    write_whole(path, content)
    note(f"look at {path}")


def _check_targets(out: Path, trajectory: Path | None, grid: str | None, budget: str | None) -> None:
    """Refuse before anything is loaded what cannot be written."""
    check_out(out, grid)
    if budget is not None and out.suffix == ".npz":
        raise UsageError("--budget: an npz says at its beginning how many images it holds; use a folder or .tar")
    if trajectory is not None and trajectory.suffix.lower() != ".webp":
        raise UsageError(f"--trajectory {trajectory}: expected a name that ends in .webp")
    if trajectory is not None and not trajectory.parent.is_dir():
        raise UsageError(f"--trajectory {trajectory}: there is no folder {trajectory.parent}")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh])", text.strip())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--budget {text}: expected a time such as 90s, 10m or 2h")
    return float(match[1]) * UNITS_S[match[2]]
