"""Benchmark of all backends of neighborhood attention, relative to the time of their matrix products alone."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hdit_core.bench.child_process import BenchSettings, OutOfMemory, measure_in_child_process
from hdit_core.bench.machine import product_rate
from hdit_core.bench.timing import Timing, interleaved, stopwatch
from hdit_core.devices import synchronize
from hdit_core.errors import is_out_of_memory
from hdit_core.flops.count import FLOPS_PER_MAC
from hdit_core.model.attention.interface import KernelTarget
from hdit_core.model.attention.neighborhood_backends import BACKENDS, availability

logger = logging.getLogger("hdit")

Direction = Literal["forward", "forward+backward"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "forward+backward")
PRODUCTS = {"forward": 2, "forward+backward": 6}
"""Number of matrix products: forward, logits and the weighted sum of values; backward, two gradients of each."""


@dataclass(frozen=True)
class Shape:
    """The shape of the attention: one head attends on a square grid of `size` x `size` tokens."""

    size: int
    batch: int = 1
    heads: int = 2
    head_dim: int = 64
    kernel_size: int = 7

    def flops(self, direction: Direction) -> int:
        """Return the FLOPs of the matrix products that every implementation needs."""
        pairs = self.batch * self.heads * self.size**2 * self.kernel_size**2
        return PRODUCTS[direction] * FLOPS_PER_MAC * pairs * self.head_dim


@dataclass(frozen=True)
class AttentionFigure:
    """The result of one backend at one shape in one direction.

    Attributes:
        backend: its name, see `hdit_core.model.attention.neighborhood_backends`.
        bound_s: lower bound: the time of the matrix products at the peak rate of this machine.
        timing: None if it could not be measured, for the reason `problem`.
        peak_bytes: peak memory, including queries, keys and values; None if unknown.
    """

    backend: str
    shape: Shape
    direction: Direction
    bound_s: float
    timing: Timing | None
    peak_bytes: int | None
    problem: str | None = None

    @property
    def times_bound(self) -> float | None:
        """The median time as a multiple of the lower bound."""
        return None if self.timing is None else self.timing.median_s / self.bound_s

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON."""
        times = self.timing.to_json() if self.timing else None
        shape = asdict(self.shape) | {"flops": self.shape.flops(self.direction)}
        return {
            "backend": self.backend,
            "direction": self.direction,
            "shape": shape,
            "bound_s": self.bound_s,
            "time": times,
            "times_bound": self.times_bound,
            "peak_bytes": self.peak_bytes,
            "problem": self.problem,
        }


@dataclass(frozen=True)
class AttentionBench:
    """The results of all backends.

    Attributes:
        rate: FLOP/s of large matrix products, which gives the lower bounds.
        unavailable: reasons of the backends that cannot run on this machine.
    """

    rate: float
    unavailable: dict[str, str]
    figures: list[AttentionFigure]

    def to_json(self) -> dict[str, Any]:
        """Return all results as JSON."""
        return {
            "product_flops_per_s": self.rate,
            "unavailable": self.unavailable,
            "figures": [figure.to_json() for figure in self.figures],
        }


def bench_attention(shapes: Sequence[Shape], dtype: torch.dtype, settings: BenchSettings) -> AttentionBench:
    """Measure the time and memory of every backend that can run on the device, at every shape."""
    device = settings.device
    missing = availability(KernelTarget(device, dtype, shapes[0].head_dim))
    names = [name for name, problem in missing.items() if problem is None]
    rate, _ = measure_in_child_process(product_rate, device, dtype, settings=settings)
    figures = []
    for shape in shapes:
        logger.info(f"attention on a grid of {shape.size}x{shape.size}: {', '.join(names)}")
        times, _ = measure_in_child_process(_times, names, shape, dtype, settings, settings=settings)
        figures += [
            _figure(name, shape, direction, rate, times[name, direction], dtype, settings)
            for name in names
            for direction in DIRECTIONS
        ]
    return AttentionBench(rate, {name: problem for name, problem in missing.items() if problem}, figures)


def _figure(
    name: str,
    shape: Shape,
    direction: Direction,
    rate: float,
    timing: Timing | str,
    dtype: torch.dtype,
    settings: BenchSettings,
) -> AttentionFigure:
    bound_s = shape.flops(direction) / rate
    if isinstance(timing, str):
        return AttentionFigure(name, shape, direction, bound_s, None, None, timing)
    case = (name, shape, direction, settings.device, dtype)
    try:
        _, peak_bytes = measure_in_child_process(_run_once, *case, settings=settings)
    except OutOfMemory:
        peak_bytes = None
    return AttentionFigure(name, shape, direction, bound_s, timing, peak_bytes)


def _times(
    names: Sequence[str], shape: Shape, dtype: torch.dtype, settings: BenchSettings
) -> dict[tuple[str, Direction], Timing | str]:
    """Return the timing of each backend and direction, or why it failed."""
    cases: list[tuple[str, Direction]] = [(name, direction) for name in names for direction in DIRECTIONS]
    tasks, problems = {}, {}
    for name, direction in cases:
        act = _act(name, shape, direction, settings.device, dtype)
        try:
            act()
        except Exception as problem:  # one backend that fails, for example to compile, leaves the others to measure
            if is_out_of_memory(problem):
                raise
            problems[name, direction] = f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0][:200]}"
        else:
            tasks[name, direction] = stopwatch(act, lambda: synchronize(settings.device))
    return problems | interleaved(tasks, settings.rounds)


def _run_once(name: str, shape: Shape, direction: Direction, device: torch.device, dtype: torch.dtype) -> None:
    _act(name, shape, direction, device, dtype)()


def _act(
    name: str, shape: Shape, direction: Direction, device: torch.device, dtype: torch.dtype
) -> Callable[[], object]:
    """Return a function that computes attention once, on random queries, keys and values."""
    sizes = (shape.batch, shape.size, shape.size, shape.heads, shape.head_dim)
    q, k, v, grad = (torch.randn(sizes, device=device, dtype=dtype) for _ in range(4))
    attend = BACKENDS[name].attend

    def forward() -> Tensor:
        with torch.inference_mode():
            return attend(q, k, v, shape.kernel_size)

    def both() -> object:
        return torch.autograd.grad(attend(q, k, v, shape.kernel_size), (q, k, v), grad)

    if direction == "forward":
        return forward
    for x in (q, k, v):
        x.requires_grad_()
    return both
