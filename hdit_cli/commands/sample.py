"""`hdit sample`: generates images from a run or a checkpoint."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdit_cli.console import note
from hdit_cli.options.condition_images import ConditionOptions
from hdit_cli.options.grouped import grouped_options
from hdit_cli.options.sampling import GuidanceOptions, ImagesOutOption, ModelOptions, SamplingOptions
from hdit_cli.options.shared import OUTPUT, PERFORMANCE, DeviceOption, JsonOption
from hdit_cli.output import check_out, grid_shape, kept_in
from hdit_cli.session import open_session
from hdit_cli.stopping import stopping_early
from hdit_core.errors import UsageError
from hdit_core.files import check_output

if TYPE_CHECKING:
    from hdit_core.generate.job import SamplingJob


WORTH_COMPILING = 1000  # number of images from which compilation, which takes a minute, pays off
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}

DEFAULT_COUNT = 64

CountOption = Annotated[
    int | None,
    typer.Option(
        "--count",
        "-n",
        "--n",
        min=1,
        help="Number of images.",
        show_default=str(DEFAULT_COUNT),
        rich_help_panel=OUTPUT,
    ),
]

IndicesOption = Annotated[
    str | None,
    typer.Option(
        "--indices",
        "--seeds",
        metavar="LIST",
        help="Instead of --count: indices of the images, e.g. 0-63,100. The noise of an image depends on --seed and on "
        "its index.",
        show_default="the first --count",
        rich_help_panel=OUTPUT,
    ),
]

GridOption = Annotated[
    str | None,
    typer.Option(
        "--grid",
        metavar="ROWSxCOLUMNS",
        help="Layout of the image grid, FOLDER-grid.png.",
        show_default="the first 100 images, square",
        rich_help_panel=OUTPUT,
    ),
]

TrajectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--trajectory",
        metavar="FILE.webp",
        help="Animate the denoising trajectory of the first images: at most 16 images, 1 megapixel per frame, and 60 "
        "frames.",
        rich_help_panel=OUTPUT,
    ),
]

BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget", metavar="TIME", help="Stop after this time, e.g. 90s, 10m or 2h.", rich_help_panel=PERFORMANCE
    ),
]

CompileOption = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Use torch.compile (about a minute of warm-up).",
        show_default=f"on a GPU, from {WORTH_COMPILING} images on",
        rich_help_panel=PERFORMANCE,
    ),
]

CudaGraphsOption = Annotated[
    bool,
    typer.Option(
        "--cuda-graphs",
        help="Replay the network as CUDA graphs, for small batches on a GPU.",
        rich_help_panel=PERFORMANCE,
    ),
]


def chosen_indices(count: int | None, listed: str | None) -> list[int]:
    """Return the image indices selected by `--count` or `--indices`.

    Raises:
        UsageError: both are given, or the list is malformed.
    """
    if count is not None and listed is not None:
        raise UsageError(f"--count {count} and --indices {listed}: both select the images; give one of them")
    from hdit_core.generate.index_ranges import first_indices, read_ranges

    if listed is None:
        return first_indices(DEFAULT_COUNT if count is None else count)
    return read_ranges(listed)


def seconds(text: str | None) -> float | None:
    """Read `"90s"`, `"10m"` or `"2h"`; None stays None.

    Raises:
        UsageError: the text has another form, or the time is 0.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh])", text.strip())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--budget {text}: expected a time such as 90s, 10m or 2h")
    return float(match[1]) * UNITS_S[match[2]]


app = typer.Typer(add_completion=False)


@app.command()
@grouped_options
def sample(
    *,
    model: ModelOptions,
    conditions: ConditionOptions,
    count: CountOption = None,
    listed: IndicesOption = None,
    out: ImagesOutOption = Path("samples"),
    grid: GridOption = None,
    trajectory: TrajectoryOption = None,
    sampling: SamplingOptions,
    guidance: GuidanceOptions,
    compiled: CompileOption = None,
    graphed: CudaGraphsOption = False,
    budget: BudgetOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Generate images from a run or a checkpoint.

    Image i depends on the seed and i, not on batch size or number of ranks (on a CPU bit for bit). --out gets one PNG
    per image; the grid is FOLDER-grid.png, next to it. Rerun the same command to generate the images that are missing.

    Examples:
      hdit sample --ckpt runs/digits --count 100 --guidance 2 --out digits
      hdit sample --ckpt runs/a --count 5000 --out - | hdit eval-fid - --ref a.npz
      hdit sample --ckpt runs/sr --condition data/val --count 8 --out upscaled
    """
    check_out(out, grid)
    check_output("--trajectory", trajectory, ".webp")
    columns, budget_s, start = grid_shape(grid), _time_limit(budget, out), (sampling.seed, sampling.settings)
    indices = chosen_indices(count, listed)
    with stopping_early(kept_in(out)), open_session(model, guidance, device, *start, conditions.open) as session:
        from hdit_core.generate.job import SamplingJob

        job = SamplingJob(session.pipeline, indices, sampling.class_id, budget_s)
        _prepare_networks(job, compiled, graphed)
        session.run(job, out, json, columns)
        _animate(job, trajectory if session.world.is_main else None)


def _time_limit(budget: str | None, out: Path) -> float | None:
    """Return the time limit in seconds, None without one; refuse it for a file that cannot end early."""
    budget_s = seconds(budget)
    if budget_s and out.suffix == ".npz":
        raise UsageError("--budget: an npz declares its number of images in advance; use a folder or .tar")
    return budget_s


def _prepare_networks(job: "SamplingJob", compiled: bool | None, graphed: bool) -> None:
    """Compile the networks and replay them as CUDA graphs, where that is asked for."""
    _compile(job, compiled)
    if graphed:
        _use_cuda_graphs(job)


def _compile(job: "SamplingJob", wanted: bool | None) -> None:
    """Compile the network's layers on first use, if requested or worthwhile."""
    pipeline = job.pipeline
    if wanted is False or (wanted is None and (pipeline.device.type != "cuda" or len(job.indices) < WORTH_COMPILING)):
        return
    from hdit_core.model.compile import compile_network
    from hdit_core.model.hourglass import HourglassTransformer

    note("compiling the network first; --no-compile skips that")
    for denoiser in (pipeline.denoiser, *([pipeline.guide.denoiser] if pipeline.guide is not None else [])):
        assert isinstance(denoiser.network, HourglassTransformer)  # as built by load_denoiser
        compile_network(denoiser.network)


def _use_cuda_graphs(job: "SamplingJob") -> None:
    """Replay the networks of a job as CUDA graphs; raise UsageError if they cannot be captured."""
    from hdit_core.model.cuda_graph import use_cuda_graphs
    from hdit_core.model.hourglass import HourglassTransformer

    pipeline = job.pipeline
    for denoiser in (pipeline.denoiser, *([pipeline.guide.denoiser] if pipeline.guide is not None else [])):
        assert isinstance(denoiser.network, HourglassTransformer)  # as built by load_denoiser
        if problem := use_cuda_graphs(denoiser.network):
            raise UsageError(f"--cuda-graphs: {problem}; leave it out")


def _animate(job: "SamplingJob", path: Path | None) -> None:
    """Write the denoising trajectory of the first images, if a path is given."""
    if path is None:
        return
    from hdit_core.files import write_atomic
    from hdit_core.generate.output.animation import MOST_IMAGES, trajectory

    indices = job.indices[:MOST_IMAGES]
    classes = [class_id for index in indices if (class_id := job.class_of(index)) is not None]
    animated = trajectory(job.pipeline, indices, classes or None)
    write_atomic(path, animated.webp)
    note(f"trajectory: {path} ({animated})")
