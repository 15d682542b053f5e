"""Where `hdit sample` is to put its images, and in what time: read before anything heavy is imported."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hdit_cli.console import align, emit, note
from hdit_cli.options.grouped import grouped_options
from hdit_cli.options.sampling import GuidanceOptions, ModelOptions, SamplingOptions
from hdit_cli.options.shared import DeviceOption, ImagesOutOption, JsonOption
from hdit_cli.output import STDOUT, check_out, grid_shape, write_samples
from hdit_cli.session import Opened, opened
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.generate.job import SamplingJob


WORTH_COMPILING = 1000  # images, below which a minute of compiling is not made good
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}

DEFAULT_COUNT = 64

CountOption = Annotated[
    int | None,
    typer.Option(
        "--n",
        "--count",
        min=1,
        metavar="N",
        help="How many images; torchrun passes on only --count.",
        show_default=str(DEFAULT_COUNT),
    ),
]

SeedsOption = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        metavar="LIST",
        help="Which images, e.g. 0-63,100; image i of a --seed has noise of its own.",
        show_default="the first N",
    ),
]

GridOption = Annotated[
    str | None,
    typer.Option("--grid", metavar="ROWSxCOLUMNS", help="Shape of grid.png.", show_default="the first 100, square"),
]

TrajectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--trajectory", metavar="FILE.webp", help="Animate the way of the first 16 images.", show_default=False
    ),
]

BudgetOption = Annotated[
    str | None,
    typer.Option("--budget", metavar="TIME", help="As many as fit into 90s, 10m or 2h.", show_default=False),
]

CompileOption = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the layers first, which takes a minute.",
        show_default=f"on a GPU, from {WORTH_COMPILING} images on",
    ),
]


def chosen_numbers(count: int | None, listed: str | None) -> list[int]:
    """Return the numbers of the images that `--n` or `--seeds` asks for.

    Raises:
        UsageError: both do, or the list is none.
    """
    if count is not None and listed is not None:
        raise UsageError(f"--n {count} and --seeds {listed}: each says which images; give one of them")
    if listed is None:
        return list(range(count or DEFAULT_COUNT))
    from hdit_core.generate.index_ranges import read_ranges

    return read_ranges(listed)


def seconds(text: str) -> float:
    """Read `"90s"`, `"10m"` or `"2h"`.

    Raises:
        UsageError: it is no such time, or none at all.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh])", text.strip())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--budget {text}: expected a time such as 90s, 10m or 2h")
    return float(match[1]) * UNITS_S[match[2]]


@dataclass(frozen=True)
class SampleTarget:
    """Where the images go."""

    out: Path
    grid: str | None = None
    trajectory: Path | None = None
    budget: str | None = None

    def __post_init__(self) -> None:
        check_out(self.out, self.grid)
        self._check_spelling()
        if self.budget is not None and self.out.suffix == ".npz":
            raise UsageError("--budget: an npz says at its beginning how many images it holds; use a folder or .tar")
        if self.trajectory is not None and self.trajectory.suffix.lower() != ".webp":
            raise UsageError(f"--trajectory {self.trajectory}: expected a name that ends in .webp")
        if self.trajectory is not None and not self.trajectory.parent.is_dir():
            raise UsageError(f"--trajectory {self.trajectory}: there is no folder {self.trajectory.parent}")

    def _check_spelling(self) -> None:
        """Refuse a misspelt grid or time now, not when the network is loaded."""
        if self.grid is not None:
            grid_shape(self.grid)
        if self.budget is not None:
            seconds(self.budget)

    @property
    def columns(self) -> tuple[int, int] | None:
        """Rows and columns of the grid."""
        return grid_shape(self.grid) if self.grid is not None else None

    @property
    def budget_s(self) -> float | None:
        """Time there is."""
        return seconds(self.budget) if self.budget is not None else None


app = typer.Typer(add_completion=False)


@app.command()
@grouped_options
def sample(
    *,
    model: ModelOptions,
    num: CountOption = None,
    numbers: SeedsOption = None,
    out: ImagesOutOption = Path("samples"),
    grid: GridOption = None,
    trajectory: TrajectoryOption = None,
    budget: BudgetOption = None,
    drawing: SamplingOptions,
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
    target = SampleTarget(out, grid, trajectory, budget)
    chosen = chosen_numbers(num, numbers)
    with opened(model, leading, device, drawing.settings) as here:
        job = _job(here, chosen, drawing, target.budget_s)
        _compile(job, compiled, here)
        record = write_samples(job, out, here.world, target.columns)
        if trajectory is not None and here.world.is_main:
            _animate(job, trajectory)
    if here.world.is_main:
        result = {"out": str(out), "ckpt": str(here.ckpt), "weights": here.weights, **record}
        lines = align([(key, str(value)) for key, value in result.items() if key != "origin"])
        emit(result, json, lines, err=out == STDOUT)


def _job(here: Opened, numbers: list[int], drawing: SamplingOptions, budget_s: float | None) -> "SamplingJob":
    from hdit_core.generate.job import SamplingJob

    here.check_class(drawing.class_id)
    how = (here.settings, here.image_size, drawing.class_id, budget_s, here.guide)
    return SamplingJob(here.denoiser, numbers, drawing.seed, *how)


def _compile(job: "SamplingJob", wanted: bool | None, here: Opened) -> None:
    """Have the layers compiled as they are first used, where that was asked for or pays."""
    device = next(job.denoiser.parameters()).device
    if wanted is False or (wanted is None and (device.type != "cuda" or len(job.numbers) < WORTH_COMPILING)):
        return
    from hdit_core.model.compile import compile_network
    from hdit_core.model.hourglass import HourglassTransformer

    if here.world.is_main:
        note("the layers are compiled first; --no-compile leaves that out")
    for denoiser in (job.denoiser, *([job.guide.denoiser] if job.guide is not None else [])):
        assert isinstance(denoiser.network, HourglassTransformer)  # what load_denoiser wraps
        compile_network(denoiser.network)


def _animate(job: "SamplingJob", path: Path) -> None:
    from hdit_core.files import write_atomic
    from hdit_core.generate.output.animation import MOST_IMAGES, trajectory_webp

    numbers = job.numbers[:MOST_IMAGES]
    how: dict[str, Any] = {"seed": job.seed, "settings": job.settings, "image_size": job.image_size, "guide": job.guide}
    classes = None if job.class_id is None else [job.class_id] * len(numbers)
    write_atomic(path, trajectory_webp(job.denoiser, numbers, class_ids=classes, **how))
    note(f"look at {path}")
