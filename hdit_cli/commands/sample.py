"""`hdit sample`: images from a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hdit_cli.bundle import unbundled
from hdit_cli.console import align, emit, note
from hdit_cli.drawing_options import DrawingOptions, GuidanceOptions, ModelOptions
from hdit_cli.opened import Opened, opened
from hdit_cli.options import DeviceOption, ImagesOutOption, JsonOption
from hdit_cli.sample_options import (
    WORTH_COMPILING,
    BudgetOption,
    CompileOption,
    CountOption,
    GridOption,
    SeedsOption,
    TrajectoryOption,
    chosen_numbers,
)
from hdit_cli.sample_output import STDOUT, deliver
from hdit_cli.sample_target import Target

if TYPE_CHECKING:
    from hdit_core.generate.job import Job

app = typer.Typer(add_completion=False)


@app.command()
@unbundled
def sample(
    *,
    model: ModelOptions,
    num: CountOption = None,
    numbers: SeedsOption = None,
    out: ImagesOutOption = Path("samples"),
    grid: GridOption = None,
    trajectory: TrajectoryOption = None,
    budget: BudgetOption = None,
    drawing: DrawingOptions,
    leading: GuidanceOptions,
    compiled: CompileOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Draw images from a run or a checkpoint.

    Image i of a seed is the same in every batch and on any number of ranks. A folder gets one PNG each, and grid.png;
    the same command again keeps what is there and draws what is missing.

    Example: hdit sample --ckpt runs/digits --n 100 --guidance 2 --out digits/
    """
    target = Target(out, grid, trajectory, budget)
    chosen = chosen_numbers(num, numbers)
    with opened(model, leading, device, drawing.settings) as here:
        job = _job(here, chosen, drawing, target.budget_s)
        _compile(job, compiled, here)
        record = deliver(job, out, here.world, target.columns)
        if trajectory is not None and here.world.is_main:
            _animate(job, trajectory)
    if here.world.is_main:
        result = {"out": str(out), "ckpt": str(here.ckpt), "weights": here.weights, **record}
        lines = align([(key, str(value)) for key, value in result.items() if key != "origin"])
        emit(result, json, lines, err=out == STDOUT)


def _job(here: Opened, numbers: list[int], drawing: DrawingOptions, budget_s: float | None) -> "Job":
    from hdit_core.generate.job import Job

    here.check_class(drawing.class_id)
    how = (here.settings, here.image_size, drawing.class_id, budget_s, here.guide)
    return Job(here.denoiser, numbers, drawing.seed, *how)


def _compile(job: "Job", wanted: bool | None, here: Opened) -> None:
    """Have the layers compiled as they are first used, where that was asked for or pays."""
    device = next(job.denoiser.parameters()).device
    if wanted is False or (wanted is None and (device.type != "cuda" or len(job.numbers) < WORTH_COMPILING)):
        return
    from hdit_core.model.compiled import compile_network
    from hdit_core.model.hourglass import HourglassTransformer

    if here.world.is_main:
        note("the layers are compiled first; --no-compile leaves that out")
    for denoiser in (job.denoiser, *([job.guide.denoiser] if job.guide is not None else [])):
        assert isinstance(denoiser.network, HourglassTransformer)  # what load_denoiser wraps
        compile_network(denoiser.network)


def _animate(job: "Job", path: Path) -> None:
    from hdit_core.files import write_whole
    from hdit_core.generate.trajectory import MOST_IMAGES, trajectory_webp

    numbers = job.numbers[:MOST_IMAGES]
    how: dict[str, Any] = {"seed": job.seed, "settings": job.settings, "image_size": job.image_size, "guide": job.guide}
    classes = None if job.class_id is None else [job.class_id] * len(numbers)
    write_whole(path, trajectory_webp(job.denoiser, numbers, class_ids=classes, **how))
    note(f"look at {path}")
