"""The tables of `hdit bench`: median times in milliseconds with quartiles, memory in MiB."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hdit_cli.console import align

if TYPE_CHECKING:
    from hdit_core.bench.attention import AttentionBench
    from hdit_core.bench.data import DataFigures
    from hdit_core.bench.sample import SampleFigure
    from hdit_core.bench.scaling import Exponent, ScalingFigure
    from hdit_core.bench.timing import Timing
    from hdit_core.bench.train import StepFigure


def attention_lines(found: "AttentionBench") -> Iterator[str]:
    """Yield the lines that `hdit bench attention` prints."""
    yield f"Large matrix products: {found.rate / 1e9:,.0f} GFLOP/s. Bound: attention products at that rate."
    for name, problem in found.unavailable.items():
        yield f"Not measured: {name}: {problem}"
    yield ""
    rows = [["grid", "direction", "backend", "ms", "quartiles", "bound, ms", "x bound", "peak MiB"]]
    for figure in found.figures:
        size = f"{figure.shape.size}x{figure.shape.size}"
        bound, times = _number(1e3 * figure.bound_s), figure.times_bound
        cells = [*_ms(figure.timing), bound, "-" if times is None else f"{times:.1f}", _mib(figure.peak_bytes)]
        rows.append([size, figure.direction, figure.backend, *cells])
    yield from align(rows)
    yield from (f"{figure.backend}: {figure.problem}" for figure in found.figures if figure.problem)


def train_lines(found: "StepFigure") -> Iterator[str]:
    """Yield the lines that `hdit bench train` prints."""
    waiting = "-" if found.waiting is None else f"{100 * found.waiting:.1f} %"
    rows = [*_step_rows(found, found.images_per_s), ("data wait", waiting)]
    yield from align([*rows, ("peak memory", f"{_mib(found.peak_bytes)} MiB")])


def sample_lines(found: "SampleFigure", guide: str | None = None) -> Iterator[str]:
    """Yield the lines that `hdit bench sample` prints."""
    rows = [("NFE per image", "-" if found.evaluations is None else str(found.evaluations))]
    rows += [("autoguidance with", guide)] if guide is not None else []
    rows += _step_rows(found, found.images_per_s)
    yield from align([*rows, ("peak memory", f"{_mib(found.peak_bytes)} MiB")])


def _step_rows(found: "StepFigure | SampleFigure", images_per_s: float | None) -> list[tuple[str, str]]:
    median, quartiles = _ms(found.timing)
    return [
        ("batch size", f"{found.images:,}"),
        ("step", f"{median} ms (quartiles {quartiles}, {len(found.timing.runs_s)} steps)"),
        ("images/s", "-" if images_per_s is None else f"{images_per_s:.4g}"),
        ("model FLOPs per step", f"{found.flops / 1e9:,.1f} GFLOP"),
        ("large matrix products", f"{found.rate / 1e9:,.0f} GFLOP/s in {found.dtype}"),
        ("utilization", f"{100 * found.utilisation:.1f} %"),
    ]


def data_lines(found: "DataFigures") -> Iterator[str]:
    """Yield the lines that `hdit bench data` prints."""
    yield f"{found.images:,} images of {'x'.join(map(str, found.size))}"
    rows = [["task", "images/s", "ms per run", "quartiles", "vs baseline"]]
    for task, timing in found.timings.items():
        share = f"{100 * found.ratios[task]:.0f} %" if task in found.ratios else "-"
        rows.append([task, f"{found.rate(task):,.1f}", *_ms(timing), share])
    yield from align(rows)
    for count, order_s in found.order_s.items():
        yield f"order of {count:,} images: {1e6 * order_s:.2f} us per image"
    opening = found.opening
    cost = f"{_number(1e3 * opening.open_s)} ms, {_mib(opening.peak_bytes)} MiB"
    yield f"opening a data set of {opening.images:,} images: {cost}"


def scaling_lines(figures: Sequence["ScalingFigure"], growth: Sequence["Exponent"]) -> Iterator[str]:
    """Yield the lines that `hdit bench scaling` prints."""
    rows = [["network", "size", "direction", "parameters", "GFLOP", "ms", "quartiles", "peak MiB"]]
    for figure in figures:
        work = [f"{figure.parameters:,}", f"{figure.flops / 1e9:,.1f}"]
        size = f"{figure.size_px}x{figure.size_px}"
        rows.append([figure.network, size, figure.direction, *work, *_ms(figure.timing), _mib(figure.peak_bytes)])
    yield from align(rows)
    yield from (
        f"{figure.network} at {figure.size_px}x{figure.size_px}, {figure.direction}: not measured: {figure.problem}"
        for figure in figures
        if figure.problem
    )
    for law in growth:
        memory = "" if law.memory is None else f", memory as pixels^{law.memory:.2f}"
        span = f"from {law.from_px}x{law.from_px} to {law.to_px}x{law.to_px}"
        yield f"{law.network}, {law.direction}: time scales as pixels^{law.time:.2f}{memory} ({span})"


def _ms(timing: "Timing | None") -> tuple[str, str]:
    if timing is None:
        return "-", "-"
    first, third = timing.quartiles_s
    return _number(1e3 * timing.median_s), f"{_number(1e3 * first)} to {_number(1e3 * third)}"


def _number(value: float) -> str:
    """Return a number with three significant digits, or all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _mib(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 2**20:,.0f}"
