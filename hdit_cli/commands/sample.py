"""`hdit sample`: images from a checkpoint."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hdit_cli.console import align, emit, note, progress
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
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.distributed import World
    from hdit_core.generate.job import Job

app = typer.Typer(add_completion=False)

RECIPES = "the recipe's"
STDOUT = Path("-")
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
    columns = _grid_shape(grid) if grid is not None else None
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
        if world.size > 1 and _is_stream(out):
            raise UsageError(f"--out {out}: several ranks can only write into a folder; make the file of it afterwards")
        record = _to_stream(job, out) if _is_stream(out) else _to_folder(job, out, world, columns)
        if trajectory is not None and world.is_main:
            _animate(job, trajectory)
    finally:
        world.leave()
    if world.is_main:
        result = {"out": str(out), "ckpt": str(ckpt), "weights": weights.value, **record}
        lines = align([(key, str(value)) for key, value in result.items() if key != "origin"])
        emit(result, json, lines, err=out == STDOUT)


def _to_folder(job: "Job", out: Path, world: "World", columns: tuple[int, int] | None) -> dict[str, Any]:
    from hdit_core.generate.folder import GRID, SampleFolder
    from hdit_core.generate.job import fill_folder
    from hdit_core.generate.origin import origin

    device = next(job.denoiser.parameters()).device
    made_from = origin(job.denoiser, job.settings, job.seed, job.image_size, job.class_id)
    folder = SampleFolder(out, made_from, job.shape)
    world.lead(folder.begin, device)
    if not world.is_main:
        fill_folder(job, folder, world, device, lambda done: None)
        return {}
    total = len(job.numbers)
    with progress("sample", total=total) as bar:
        held = fill_folder(job, folder, world, device, lambda done: bar.update(min(done * world.size, total)))
        bar.update(len(held))
    record = folder.finish(held, job.class_of, columns)
    note(f"look at {out / GRID}")
    return {key: record[key] for key in ("num_images", "images", "origin")}


def _to_stream(job: "Job", out: Path) -> dict[str, Any]:
    from hdit_core.generate.origin import origin
    from hdit_core.generate.stream import SampleNpz, SampleTar

    made_from = origin(job.denoiser, job.settings, job.seed, job.image_size, job.class_id)
    target: Any = sys.stdout.buffer if out == STDOUT else out
    stream = SampleNpz(out, len(job.numbers), job.shape) if out.suffix == ".npz" else SampleTar(target)
    done = 0
    with stream, progress("sample", total=len(job.numbers)) as bar:
        for batch in job.batches(job.numbers):
            stream.write(batch)
            done += len(batch.indices)
            bar.update(done)
    return {"num_images": done, "origin": made_from}


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


def _is_stream(out: Path) -> bool:
    return out == STDOUT or out.suffix in (".tar", ".npz")


def _check_targets(out: Path, trajectory: Path | None, grid: str | None, budget: str | None) -> None:
    """Refuse before anything is loaded what cannot be written."""
    if out == STDOUT and sys.stdout.isatty():
        raise UsageError("--out -: stdout is a terminal; pipe it into another command, or give a file")
    if grid is not None and _is_stream(out):
        raise UsageError(f"--grid {grid}: there is a grid only in a folder; leave it out, or give a folder with --out")
    if budget is not None and out.suffix == ".npz":
        raise UsageError("--budget: an npz says at its beginning how many images it holds; use a folder or .tar")
    if trajectory is not None and trajectory.suffix.lower() != ".webp":
        raise UsageError(f"--trajectory {trajectory}: expected a name that ends in .webp")
    if trajectory is not None and not trajectory.parent.is_dir():
        raise UsageError(f"--trajectory {trajectory}: there is no folder {trajectory.parent}")


def _grid_shape(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9][0-9]{0,2})x([1-9][0-9]{0,2})", text.strip())
    if match is None:
        raise UsageError(f"--grid {text}: expected ROWSxCOLUMNS, for example 4x8")
    return int(match[1]), int(match[2])


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh])", text.strip())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--budget {text}: expected a time such as 90s, 10m or 2h")
    return float(match[1]) * UNITS_S[match[2]]
