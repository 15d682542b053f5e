"""`hdit sample`: images from a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hdit_cli.console import align, emit, note
from hdit_cli.eval_options import DrawnWeightsOption
from hdit_cli.options import (
    BatchSizeOption,
    CheckpointOption,
    ClassOption,
    DeviceOption,
    GuidanceOption,
    ImagesOutOption,
    JsonOption,
    SamplerOption,
    SeedOption,
    SizeOption,
    StepsOption,
)
from hdit_cli.sample_options import (
    WORTH_COMPILING,
    AutoguidanceOption,
    BudgetOption,
    CompileOption,
    CountOption,
    GridOption,
    GuideOption,
    GuideWeightsOption,
    IntervalOption,
    RescaleOption,
    SampleSetOption,
    SeedsOption,
    TrajectoryOption,
    noise_levels,
)
from hdit_cli.sample_output import STDOUT, deliver
from hdit_cli.sample_request import GuideRequest, Request, Target

if TYPE_CHECKING:
    from hdit_core.distributed import World
    from hdit_core.generate.job import Job

app = typer.Typer(add_completion=False)


@app.command()
def sample(
    ckpt: CheckpointOption,
    weights: DrawnWeightsOption = None,
    num: CountOption = 64,
    numbers: SeedsOption = None,
    seed: SeedOption = 0,
    class_id: ClassOption = None,
    size: SizeOption = None,
    out: ImagesOutOption = Path("samples"),
    grid: GridOption = None,
    trajectory: TrajectoryOption = None,
    budget: BudgetOption = None,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
    overrides: SampleSetOption = None,
    guidance: GuidanceOption = None,
    interval: IntervalOption = None,
    rescale: RescaleOption = None,
    guide: GuideOption = None,
    guide_weights: GuideWeightsOption = None,
    autoguidance: AutoguidanceOption = None,
    batch_size: BatchSizeOption = None,
    compiled: CompileOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Draw images from a run or a checkpoint.

    Image i of a seed is the same in every batch and on any number of ranks. A folder gets one PNG each, and grid.png;
    the same command again keeps what is there and draws what is missing.

    Example: hdit sample --ckpt runs/digits --n 100 --guidance 2 --out digits/
    """
    drawn: dict[str, Any] = {"sampler": sampler, "steps": steps, "batch_size": batch_size, "guidance": guidance}
    drawn |= {"guidance_interval": interval and noise_levels(interval), "guidance_rescale": rescale}
    leader = GuideRequest(guide, guide_weights, autoguidance)
    request = Request(ckpt, weights, num, numbers, seed, class_id, size, drawn, overrides or (), leader)
    _draw(request, Target(out, grid, trajectory, budget), compiled, device, json)


def _draw(request: Request, target: Target, compiled: bool | None, device: str, json: bool) -> None:
    """Draw on all ranks; the main one prints the result."""
    columns, budget_s = target.columns, target.budget_s

    from hdit_core.devices import pick_device
    from hdit_core.distributed import APART_S, join
    from hdit_core.generate.defaults import read_defaults

    world = join(device, APART_S)
    try:
        job = request.job(world.device(pick_device(device)), budget_s)
        defaults = read_defaults(request.ckpt)
        _say_how(job, world, defaults.note)
        _compile(job, compiled, world)
        record = deliver(job, target.out, world, columns)
        if target.trajectory is not None and world.is_main:
            _animate(job, target.trajectory)
    finally:
        world.leave()
    if world.is_main:
        result = {"out": str(target.out), "ckpt": str(request.ckpt), "weights": request.weights or defaults.weights}
        result |= record
        lines = align([(key, str(value)) for key, value in result.items() if key != "origin"])
        emit(result, json, lines, err=target.out == STDOUT)


def _say_how(job: "Job", world: "World", by_default: str | None) -> None:
    from hdit_core.checkpoint.denoiser import attention_notes

    if not world.is_main:
        return
    for line in attention_notes(job.denoiser):
        note(line)
    if by_default is not None:
        note(by_default)
    if job.guide is not None and job.guide.weight == 1:
        note("the guide is not asked: --autoguidance 1 leads nowhere")


def _compile(job: "Job", wanted: bool | None, world: "World") -> None:
    """Have the layers compiled as they are first used, where that was asked for or pays."""
    device = next(job.denoiser.parameters()).device
    if wanted is False or (wanted is None and (device.type != "cuda" or len(job.numbers) < WORTH_COMPILING)):
        return
    from hdit_core.model.compiled import compile_network
    from hdit_core.model.hourglass import HourglassTransformer

    if world.is_main:
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
