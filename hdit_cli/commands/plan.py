"""`hdit plan`: estimates of memory, time, energy and cost before a run. Imports no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdit_cli.console import emit, note
from hdit_cli.options.shared import JsonOption, RecipeArgument, SetOption
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.plan.benchmark_result import BenchmarkResult
    from hdit_core.plan.gpu_specs import Gpu
    from hdit_core.plan.plan import Cluster, Plan


app = typer.Typer(add_completion=False)

GpuOption = Annotated[
    str | None,
    typer.Option(
        "--gpu", metavar="NAME", help="GPU: a100, h100, h200, l40s, rtx4090, ... Required without --measured."
    ),
]
CountOption = Annotated[int, typer.Option("--count", "-n", min=1, help="Number of GPUs.")]
UtilisationOption = Annotated[
    float | None,
    typer.Option(
        "--utilization",
        "--utilisation",
        min=0.001,
        max=1.0,
        metavar="SHARE",
        help="Model FLOPs utilization (MFU), as a share of the GPU's peak.",
        show_default="from a roofline model",
    ),
]
MeasuredOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json", help="Take the speed from the output of `hdit bench train --json`, instead of --gpu."
    ),
]
MemoryOption = Annotated[
    float | None,
    typer.Option(
        min=0.01, max=1_000_000, metavar="GB", help="Memory per device that the run may use.", show_default="the GPU's"
    ),
]
PriceOption = Annotated[
    float | None,
    typer.Option(min=0, max=1_000_000_000, metavar="AMOUNT", help="Cost per GPU-hour, in any currency."),
]


@app.command()
def plan(
    recipe: RecipeArgument,
    gpu: GpuOption = None,
    number: CountOption = 1,
    utilisation: UtilisationOption = None,
    measured: MeasuredOption = None,
    memory: MemoryOption = None,
    price: PriceOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Estimate memory, training time, energy and cost of a run.

    Give --gpu or --measured. The memory is an upper bound of the peak per device, for each number of levels with
    activation checkpointing. Without --utilization or --measured, the throughput is a range from a roofline model.

    Examples:
      hdit plan ffhq1024 --gpu h100 --count 64 --price 2.5
      hdit bench train mnist32 --json > bench.json
      hdit plan mnist32 --measured bench.json
    """
    from hdit_cli.tables.plan import lines
    from hdit_core.plan.benchmark_result import read_benchmark_result
    from hdit_core.plan.gpu_specs import find_gpu
    from hdit_core.plan.plan import plan as make_plan
    from hdit_core.plan.report import as_dict
    from hdit_core.recipe.read import read_recipe

    if gpu is None and measured is None:
        raise UsageError(
            "the speed of the hardware is unknown: give --gpu NAME, for example --gpu h100, or for this machine "
            f"--measured bench.json after `hdit bench train {recipe} --json > bench.json`"
        )
    checked = read_recipe(recipe, overrides or ())
    known, timed = find_gpu(gpu) if gpu else None, read_benchmark_result(measured) if measured else None
    bill = make_plan(checked, _cluster(known, timed, number, utilisation, memory, price))
    for line in [*_grounds(known, timed, utilisation, memory), *_doubts(bill)]:
        note(line)
    emit(as_dict(bill), json, lines(bill))


def _cluster(
    gpu: "Gpu | None",
    measured: "BenchmarkResult | None",
    number: int,
    utilisation: float | None,
    memory_gb: float | None,
    price: float | None,
) -> "Cluster":
    from hdit_core.plan.plan import Cluster

    usable = int(memory_gb * 1e9) if memory_gb else gpu.usable_bytes if gpu else None
    on_cpu = gpu is None and measured is not None and measured.on_cpu
    if measured is not None:
        speed: float | None = measured.flops_per_s
    else:
        assert gpu is not None  # checked by `plan`: --gpu or --measured is given
        speed = None if utilisation is None else gpu.tflops * 1e12 * utilisation
    watts = float(gpu.watts) if gpu else None
    whole = usable if memory_gb else gpu.memory_gb * 10**9 if gpu else None
    memory = None if on_cpu else whole
    value_bytes = 4 if on_cpu else 2
    threads = measured.fused_threads if measured is not None else 0
    return Cluster(number, usable, speed, watts, price, memory, value_bytes, on_cpu, threads, measured, gpu)


def _grounds(
    gpu: "Gpu | None", measured: "BenchmarkResult | None", utilisation: float | None, memory_gb: float | None
) -> list[str]:
    """Return the assumptions behind the estimates."""
    from hdit_core.plan.gpu_specs import USABLE_FRACTION
    from hdit_core.plan.roofline import EFFICIENCY

    grounds = []
    if gpu is not None:
        filled = f"{USABLE_FRACTION:.0%} usable" if memory_gb is None else f"{memory_gb:g} GB usable"
        grounds.append(f"{gpu.name}: {gpu.memory_gb:g} GB, {filled}; {gpu.watts:g} W")
    if measured is not None:
        where = f"{measured.processor} ({measured.device})"
        what = f"{measured.recipe}, {measured.images} images per step"
        grounds.append(f"speed: {measured.flops_per_s / 1e12:.3g} TFLOP/s, measured on {where} with {what}")
    elif gpu is not None and utilisation is None:
        low, high = EFFICIENCY
        grounds.append(
            f"speed: {low:.2g} to {high:.2g} of the slower of products at {gpu.tflops:g} TFLOP/s and memory traffic at "
            f"{gpu.memory_tb_per_s:g} TB/s (the paper's two runs); --utilization or --measured gives one speed"
        )
    elif gpu is not None:
        grounds.append(f"speed: {utilisation:.0%} of {gpu.tflops:g} TFLOP/s in bfloat16 (--utilization)")
    return grounds


def _doubts(bill: "Plan") -> list[str]:
    """Return the caveats of the estimates."""
    from hdit_core.plan.plan import training_flops
    from hdit_core.plan.roofline import LAUNCHES_S

    measured, doubts = bill.cluster.measured, []
    if measured is not None and bill.same_network_result is None:
        measured_gflop, own_gflop = measured.flops_per_image / 1e9, training_flops(bill.recipe) / 1e9
        doubts.append(
            f"the measurement is of another network ({measured.recipe}: {measured_gflop:,.4g} GFLOP per image; this "
            f"recipe: {own_gflop:,.4g}), whose utilization can differ; measure this one with hdit bench train"
        )
    if measured is not None and measured.on_cpu and bill.cluster.watts is not None:
        doubts.append("the speed was measured on a CPU; memory and power are from --gpu")
    if bill.chosen and bill.chosen.roofline and bill.chosen.roofline.bound == "kernel launches":
        slow_ms, fast_ms = (1e3 * layer_s for layer_s in LAUNCHES_S)
        doubts.append(
            f"a small network waits for kernel launches: {fast_ms:g} to {slow_ms:g} ms per layer and micro-batch are "
            "assumed, and data loading is not counted; measure it with hdit bench train"
        )
    if bill.cluster.usable_bytes is None:
        doubts.append("the memory per device is unknown; give --memory GB or --gpu to see what fits")
    return doubts
