"""`hdit bench`: benchmarks of attention, training, sampling and data loading, compared with lower bounds."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hdit_cli.console import emit
from hdit_cli.options.shared import (
    DeviceOption,
    JsonOption,
    RecipeArgument,
    SetOption,
    SizeOption,
    image_size,
    recipe_names,
)
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.bench.child_process import BenchSettings


app = typer.Typer(add_completion=False, rich_markup_mode=None)

ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads.", show_default="OMP_NUM_THREADS, or all cores"),
]
SecondsOption = Annotated[
    float, typer.Option("--seconds", min=0.0, metavar="SECONDS", help="Approximate time per measurement.")
]
GuideOption = Annotated[
    str | None,
    typer.Option(
        "--guide",
        metavar="RECIPE",
        help="Include autoguidance with a model of this recipe (the same recipe adds one forward pass).",
        autocompletion=recipe_names,
    ),
]
SizesOption = Annotated[str, typer.Option("--sizes", metavar="N,...", help="Side lengths, separated by commas.")]


@app.callback()
def bench() -> None:
    """Benchmark attention, training, sampling and data loading.

    Compared tasks are interleaved; results are medians. A benchmark takes a minute or two on two idle cores.

    Examples:
      hdit bench attention
      hdit bench train mnist32 --threads 1
    """


@app.command()
def attention(
    sizes: SizesOption = "32,64,128,256",
    kernel_size: Annotated[int, typer.Option("--kernel-size", min=3, metavar="K", help="Attention window size.")] = 7,
    heads: Annotated[int, typer.Option("--heads", min=1, help="Attention heads.")] = 2,
    head_dim: Annotated[int, typer.Option("--head-dim", min=8, metavar="D", help="Features per head.")] = 64,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seconds: SecondsOption = 2.0,
    json: JsonOption = False,
) -> None:
    """Time the implementations of neighborhood attention.

    Prints time and peak memory of every implementation that is available. Sizes are those of the token grid, for one
    image. The lower bound is the time of the matrix products alone at the rate that large products reach on this
    machine.

    Example:
      hdit bench attention --sizes 32,64 --threads 1
    """
    sides = _sizes(sizes)
    if kernel_size % 2 == 0 or kernel_size > min(sides):
        raise UsageError(f"--kernel-size {kernel_size}: expected an odd number up to the smallest size, {min(sides)}")

    from hdit_cli.tables.bench import attention_lines
    from hdit_core.bench.attention import Shape, bench_attention
    from hdit_core.devices import compute_dtype

    settings = _settings(device, threads, seconds)
    shapes = [Shape(side, 1, heads, head_dim, kernel_size) for side in sides]
    found = bench_attention(shapes, compute_dtype("auto", settings.device), settings)
    _print(settings, found.to_json(), json, attention_lines(found))


@app.command()
def train(
    recipe: RecipeArgument = "mnist32",
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Read batches from the recipe's data.path instead of using noise.")
    ] = False,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seconds: SecondsOption = 15.0,
    json: JsonOption = False,
) -> None:
    """Time the training step of a recipe.

    Prints images/s, utilization, data wait (the share of the time that is spent waiting for data) and peak memory.
    Utilization is the model's FLOP/s over the FLOP/s of large matrix products on this machine. On a CPU the peak
    memory is that of a separate process, including weights and optimizer.

    Example:
      hdit bench train ffhq1024 --set train.batch_size=1
    """
    from hdit_cli.tables.bench import train_lines
    from hdit_core.recipe.read import read_recipe

    checked = read_recipe(recipe, overrides or ())

    from hdit_core.bench.train import bench_train

    settings = _settings(device, threads, seconds)
    found = bench_train(checked, settings, read_data=read_data)
    _print(settings, {"recipe": recipe, **found.to_json()}, json, train_lines(found))


@app.command()
def sample(
    recipe: RecipeArgument = "mnist32",
    guide: GuideOption = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    graphed: Annotated[bool, typer.Option("--cuda-graphs", help="Replay the network as CUDA graphs.")] = False,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seconds: SecondsOption = 15.0,
    json: JsonOption = False,
) -> None:
    """Time one denoiser evaluation of a recipe.

    An evaluation includes guidance. Prints images/s, utilization and peak memory.

    Example:
      hdit bench sample imagenet128 --guide imagenet128
    """
    from hdit_cli.tables.bench import sample_lines
    from hdit_core.recipe.read import read_recipe

    checked = read_recipe(recipe, overrides or ())
    leading = None if guide is None else read_recipe(guide)

    from hdit_core.bench.sample import bench_sample

    settings = _settings(device, threads, seconds)
    found = bench_sample(checked, settings, guide=leading, compiled=compiled, graphed=graphed)
    _print(
        settings,
        {"recipe": recipe, "guide": guide, "compiled": compiled, "graphed": graphed, **found.to_json()},
        json,
        sample_lines(found, guide),
    )


@app.command()
def scaling(
    sizes: SizesOption = "64,128,256,512,1024",
    width: Annotated[int, typer.Option("--width", min=1, help="Width of the innermost level; HDiT-B has 768.")] = 128,
    most_s: Annotated[
        float,
        typer.Option("--most", min=0.0, metavar="SECONDS", help="Skip cases that take longer than this."),
    ] = 5.0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seconds: SecondsOption = 2.0,
    json: JsonOption = False,
) -> None:
    """Time HDiT and DiT over image sizes.

    Times HDiT-B/4 and a DiT of the same width, and fits scaling exponents of time and memory. Both networks are
    narrowed to --width. HDiT gets one more level per doubling of the size, as in the paper. Exponents are fitted from
    256x256 on.

    Example:
      hdit bench scaling --sizes 64,128,256 --threads 1
    """
    from hdit_cli.tables.bench import scaling_lines
    from hdit_core.bench.scaling import bench_scaling, exponents, networks
    from hdit_core.devices import compute_dtype

    try:
        networks(width)
    except ValueError as problem:
        raise UsageError(f"--width {width}: {problem}; use a multiple of 128") from None
    settings = _settings(device, threads, seconds)
    dtype = compute_dtype("auto", settings.device)
    found = list(bench_scaling(_sizes(sizes), width, dtype, settings, most_s=most_s))
    growth = list(exponents(found))
    result = {"figures": [figure.to_json() for figure in found], "exponents": [law.to_json() for law in growth]}
    _print(settings, result, json, scaling_lines(found, growth))


@app.command()
def data(
    pictures: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Folder of images.", show_default="generated noise"),
    ] = None,
    size: SizeOption = "256",
    images: Annotated[int, typer.Option("--count", "-n", "--images", min=1, help="Number of images.")] = 200,
    seconds: SecondsOption = 15.0,
    json: JsonOption = False,
) -> None:
    """Time preparation and reading of images.

    The baseline reads, resizes and writes the same images with Pillow alone.

    Example:
      hdit bench data photos/ --size 128 --count 100
    """
    height, width = image_size(size or "256")
    if pictures is not None and not pictures.is_dir():
        raise UsageError(f"{pictures}: expected a folder of images")

    from hdit_cli.tables.bench import data_lines
    from hdit_core.bench.data import bench_data

    settings = _settings("cpu", None, seconds)
    found = bench_data(pictures, (height, width), images=images, rounds=settings.rounds)
    _print(settings, found.to_json(), json, data_lines(found))


def _sizes(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 0 < int(part) < 100_000 for part in parts):
        raise UsageError(f"--sizes {text}: expected numbers separated by commas, for example 64,128")
    return sorted({int(part) for part in parts})


def _settings(device: str, threads: int | None, seconds: float) -> "BenchSettings":
    import torch

    from hdit_core.bench.child_process import BenchSettings
    from hdit_core.bench.timing import Rounds
    from hdit_core.devices import pick_device

    return BenchSettings(pick_device(device), threads or torch.get_num_threads(), Rounds(limit_s=seconds))


def _print(settings: "BenchSettings", result: dict[str, Any], json: bool, lines: Iterable[str]) -> None:
    from hdit_core.bench.machine import this_machine

    machine = this_machine(settings.device, settings.threads)
    emit({"machine": machine.to_json(), **result}, json, [f"{machine}", *lines])
