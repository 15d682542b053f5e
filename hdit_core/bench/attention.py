"""Neighborhood attention by every implementation there is, each beside the time that its products alone would take."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hdit_core.bench.child_process import Memory, OutOfMemory, Say, measure_in_child_process
from hdit_core.bench.machine import FLOPS_PER_MAC, finish, rate_of
from hdit_core.bench.timing import Rounds, Timing, interleaved, stopwatch
from hdit_core.model.attention.backends import BACKENDS, availability
from hdit_core.model.attention.interface import KernelTarget

Direction = Literal["forward", "forward+backward"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "forward+backward")
PRODUCTS = {"forward": 2, "forward+backward": 6}
"""Products of queries, keys and features: logits and their weighting of values; each one's gradient by both factors."""


@dataclass(frozen=True)
class Shape:
    """What is attended: a square grid of `size` cells a side."""

    size: int
    batch: int = 1
    heads: int = 2
    head_dim: int = 64
    kernel_size: int = 7

    def flops(self, direction: Direction) -> int:
        """Return the FLOPs of the products that nobody can do without."""
        pairs = self.batch * self.heads * self.size**2 * self.kernel_size**2
        return PRODUCTS[direction] * FLOPS_PER_MAC * pairs * self.head_dim


@dataclass(frozen=True)
class AttentionFigure:
    """One implementation at one shape in one direction.

    Attributes:
        backend: its name, see `hdit_core.model.attention.backends`.
        floor_s: the products' FLOPs at the machine's own rate.
        timing: None where it could not be measured, `problem` then says why.
        peak_bytes: most memory that it took at once, queries, keys and values included; None where unknown.
    """

    backend: str
    shape: Shape
    direction: Direction
    floor_s: float
    timing: Timing | None
    peak_bytes: int | None
    problem: str | None = None

    @property
    def times_the_floor(self) -> float | None:
        """How many times longer it took than its products would at the machine's rate."""
        return None if self.timing is None else self.timing.median_s / self.floor_s

    def to_json(self) -> dict[str, Any]:
        times = self.timing.to_json() if self.timing else None
        shape = asdict(self.shape) | {"flops": self.shape.flops(self.direction)}
        return {
            "backend": self.backend,
            "direction": self.direction,
            "shape": shape,
            "floor_s": self.floor_s,
            "time": times,
            "times_the_floor": self.times_the_floor,
            "peak_bytes": self.peak_bytes,
            "problem": self.problem,
        }


@dataclass(frozen=True)
class AttentionBench:
    """All figures, and what could not run.

    Attributes:
        rate: FLOP/s of large matrix products, of which the floors are made.
        unavailable: implementations that cannot run here, with what is missing.
    """

    rate: float
    unavailable: dict[str, str]
    figures: list[AttentionFigure]

    def to_json(self) -> dict[str, Any]:
        return {
            "product_flops_per_s": self.rate,
            "unavailable": self.unavailable,
            "figures": [figure.to_json() for figure in self.figures],
        }


def bench_attention(
    shapes: Sequence[Shape],
    device: torch.device,
    dtype: torch.dtype,
    *,
    threads: int,
    rounds: Rounds | None = None,
    say: Say = lambda line: None,
) -> AttentionBench:
    """Measure every implementation that can run on a device, at every shape, in turn, and the memory of each."""
    missing = availability(KernelTarget(device, dtype, shapes[0].head_dim))
    names = [name for name, problem in missing.items() if problem is None]
    rate, _ = measure_in_child_process(rate_of, device, dtype, device=device, threads=threads)
    figures = []
    for shape in shapes:
        say(f"attention on a grid of {shape.size}x{shape.size}: {', '.join(names)}")
        work = (names, shape, device, dtype, rounds or Rounds())
        times, _ = measure_in_child_process(_times, *work, device=device, threads=threads)
        figures += [
            _figure(name, shape, direction, rate, times[name, direction], device, dtype, threads)
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
    device: torch.device,
    dtype: torch.dtype,
    threads: int,
) -> AttentionFigure:
    floor_s = shape.flops(direction) / rate
    if isinstance(timing, str):
        return AttentionFigure(name, shape, direction, floor_s, None, None, timing)
    try:
        _, memory = measure_in_child_process(
            _once, name, shape, direction, device, dtype, device=device, threads=threads
        )
    except OutOfMemory:
        memory = Memory(None)
    return AttentionFigure(name, shape, direction, floor_s, timing, memory.peak_bytes)


def _times(
    names: Sequence[str], shape: Shape, device: torch.device, dtype: torch.dtype, rounds: Rounds, say: Say
) -> dict[tuple[str, Direction], Timing | str]:
    """Return the times of each implementation and direction, or why one of them failed."""
    places: list[tuple[str, Direction]] = [(name, direction) for name in names for direction in DIRECTIONS]
    tasks, found = {}, {}
    for name, direction in places:
        act = _act(name, shape, direction, device, dtype)
        try:
            act()
        except NotImplementedError as problem:  # forward only, for one
            found[name, direction] = str(problem)
        else:
            tasks[name, direction] = stopwatch(act, lambda: finish(device))
    return found | interleaved(tasks, rounds)


def _once(name: str, shape: Shape, direction: Direction, device: torch.device, dtype: torch.dtype, say: Say) -> None:
    _act(name, shape, direction, device, dtype)()


def _act(
    name: str, shape: Shape, direction: Direction, device: torch.device, dtype: torch.dtype
) -> Callable[[], object]:
    """Return what attends once, on queries, keys and values of its own."""
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
