"""How time and memory grow with the image: HDiT, grown by the paper's rule, beside a DiT of the same width.

Both are measured forward and backward on one image, and forward alone as a sampler calls them. The DiT is a stand-in:
DiT-B's one level of twelve layers with global attention, in HDiT's own blocks (row R3 of the paper's table 1), so that
the two differ in their hourglass and in what attends to what, and in nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from hdit_core.bench.child_process import Memory, OutOfMemory, Say, measure_in_child_process
from hdit_core.bench.machine import FLOPS_PER_MAC, finish
from hdit_core.bench.timing import Rounds, Timing, interleaved, stopwatch
from hdit_core.bench.train import FORWARD_AND_BACKWARD
from hdit_core.devices import autocast
from hdit_core.flops.baselines import DIT_B4, HDIT_B4, scale_to_size
from hdit_core.flops.count import count
from hdit_core.flops.scaling import fitted_exponent
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.recipe.model import LevelRecipe, ModelRecipe

Direction = Literal["forward", "forward+backward"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "forward+backward")

SIZES_PX = (64, 128, 256, 512, 1024)
FROM_PX = 256
"""Growth is fitted from here on; below, what costs the same at any size still counts."""

FULL_WIDTH = HDIT_B4.levels[-1].width


@dataclass(frozen=True)
class ScalingFigure:
    """One network at one size.

    Attributes:
        timing: None where it was not measured; `problem` then says why.
        peak_bytes: most memory beyond an idle process, weights included; None where unknown.
    """

    network: str
    size_px: int
    direction: Direction
    parameters: int
    flops: int
    timing: Timing | None
    peak_bytes: int | None
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "size": self.size_px,
            "direction": self.direction,
            "parameters": self.parameters,
            "flops": self.flops,
            "time": self.timing.to_json() if self.timing else None,
            "peak_bytes": self.peak_bytes,
            "problem": self.problem,
        }


@dataclass(frozen=True)
class Exponent:
    """The a of time ~ pixels^a, and of memory, over the sizes from `from_px` to `to_px`."""

    network: str
    direction: Direction
    from_px: int
    to_px: int
    time: float
    memory: float | None

    def to_json(self) -> dict[str, Any]:
        return vars(self).copy()


def cut(model: ModelRecipe, width: int) -> ModelRecipe:
    """Return a network with the widths of all of its levels cut in proportion, the innermost to `width`.

    Raises:
        ValueError: some level's width would be no multiple of its heads'.
    """
    full = model.levels[-1].width
    levels = tuple(_cut_level(level, width, full) for level in model.levels)
    mapping_width = max(2, model.mapping_width * width // full)
    return ModelRecipe.model_validate(
        model.model_copy(update={"levels": levels, "mapping_width": mapping_width, "num_classes": 0}).model_dump()
    )


def _cut_level(level: LevelRecipe, width: int, full: int) -> LevelRecipe:
    if level.width * width % (full * level.head_dim):
        raise ValueError(f"a width of {width} of {full} makes one of {level.width} no multiple of {level.head_dim}")
    changes = {"width": level.width * width // full, "d_ff": level.hidden * width // full}
    return level.model_copy(update=changes)


def networks(width: int) -> dict[str, ModelRecipe]:
    """Return both networks at 128x128, HDiT's innermost level and all of DiT's this wide."""
    flat = LevelRecipe(depth=DIT_B4.depth, width=DIT_B4.width, attention="global", d_ff=4 * DIT_B4.width)
    return {"HDiT-B/4": cut(HDIT_B4, width), "DiT-B/4": cut(HDIT_B4.model_copy(update={"levels": (flat,)}), width)}


def at_size(name: str, network: ModelRecipe, size_px: int) -> ModelRecipe:
    """Return a network for images of a size: HDiT grows by a level for each doubling, DiT stays as it is."""
    if name == "HDiT-B/4":
        return scale_to_size(network, (size_px, size_px))
    return network.model_copy(update={"image_size": (size_px, size_px)})


def bench_scaling(
    sizes_px: Sequence[int],
    width: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    threads: int,
    most_s: float = 30.0,
    rounds: Rounds | None = None,
    say: Say = lambda line: None,
) -> Iterator[ScalingFigure]:
    """Yield the figures of both networks, size by size.

    Args:
        sizes_px: sides of the square images, rising.
        width: of the innermost level.
        most_s: a run that would take longer, by what the size before took, is left out and said to be.
    """
    for name, network in networks(width).items():
        for direction in DIRECTIONS:
            rate = None  # FLOP/s at the size before
            for size_px in sizes_px:
                model = at_size(name, network, size_px)
                figure = _figure(name, model, direction, rate, device, dtype, threads, most_s, rounds or Rounds())
                say(f"{name} at {size_px}x{size_px}, {direction}: {_said(figure)}")
                yield figure
                if figure.timing is None:
                    rate = 0.0 if rate is None else rate
                else:
                    rate = figure.flops / figure.timing.median_s


def _said(figure: ScalingFigure) -> str:
    return f"{figure.timing.median_s:.3g} s" if figure.timing else str(figure.problem)


def _figure(
    name: str,
    model: ModelRecipe,
    direction: Direction,
    rate: float | None,
    device: torch.device,
    dtype: torch.dtype,
    threads: int,
    most_s: float,
    rounds: Rounds,
) -> ScalingFigure:
    counted = count(model)
    passes = FORWARD_AND_BACKWARD if direction == "forward+backward" else 1
    flops = FLOPS_PER_MAC * passes * counted.macs
    problem, timing, memory = None, None, Memory(None)
    if rate is not None and flops > most_s * rate:
        problem = f"would take about {flops / rate:,.0f} s" if rate else "the size before did not fit"
    else:
        try:
            timing, memory = measure_in_child_process(
                _measure, model, direction, device, dtype, rounds, device=device, threads=threads
            )
        except OutOfMemory as error:
            problem = str(error)
    known = (counted.parameters, flops, timing, memory.peak_bytes, problem)
    return ScalingFigure(name, model.image_size[0], direction, *known)


def _measure(
    model: ModelRecipe, direction: Direction, device: torch.device, dtype: torch.dtype, rounds: Rounds, say: Say
) -> Timing:
    network = HourglassTransformer(model)
    initialize(network, seed=0)
    network = network.to(device)
    x, sigma = torch.randn(1, model.channels, *model.image_size, device=device), torch.ones(1, device=device)

    def forward() -> None:
        with torch.inference_mode(), autocast(device, dtype):
            network(x, sigma)

    def both() -> None:
        with autocast(device, dtype):
            network(x, sigma).square().mean().backward()

    act = forward if direction == "forward" else both
    return interleaved({"step": stopwatch(act, lambda: finish(device))}, rounds)["step"]


def exponents(figures: Sequence[ScalingFigure], from_px: int = FROM_PX) -> Iterator[Exponent]:
    """Yield the growth of each network in each direction over its measured sizes from `from_px` on.

    Where these are not two, the two largest that were measured make the law; one makes none.
    """
    for name, direction in dict.fromkeys((figure.network, figure.direction) for figure in figures):
        mine = [figure for figure in figures if (figure.network, figure.direction) == (name, direction)]
        measured_here = [figure for figure in mine if figure.timing]
        large = [figure for figure in measured_here if figure.size_px >= from_px]
        found = large if len(large) >= 2 else measured_here[-2:]
        if len(found) < 2:
            continue
        pixels = [figure.size_px**2 for figure in found]
        times = [figure.timing.median_s for figure in found if figure.timing]
        peaks = [figure.peak_bytes for figure in found if figure.peak_bytes]
        time = fitted_exponent(pixels, times)
        memory = fitted_exponent(pixels, peaks) if len(peaks) == len(pixels) else None
        assert time is not None  # the sizes are different
        yield Exponent(name, direction, found[0].size_px, found[-1].size_px, time, memory)
