"""Scaling of time and memory with image size: HDiT, with levels added by the paper's rule, and a DiT of equal width.

Both are measured on one image, forward and backward as in training, and forward only as in sampling. The DiT has one
level of twelve layers with global attention as DiT-B, but HDiT's blocks (row R3 of the paper's table 1), so that the
two differ only in the hourglass and in their attention.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hdit_core.bench.attention import DIRECTIONS, Direction
from hdit_core.bench.child_process import BenchSettings, OutOfMemory, measure_in_child_process
from hdit_core.bench.timing import Timing, interleaved, stopwatch
from hdit_core.devices import autocast, synchronize
from hdit_core.flops.baselines import DIT_B4, HDIT_B4, scale_to_size
from hdit_core.flops.count import FLOPS_PER_MAC, FORWARD_AND_BACKWARD, count
from hdit_core.flops.scaling import fitted_exponent
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.recipe.model import LevelRecipe, ModelRecipe

logger = logging.getLogger("hdit")


FROM_PX = 256
"""Smallest image size of the fit; below, costs that do not depend on the size matter."""


@dataclass(frozen=True)
class ScalingFigure:
    """The measurements of one network at one image size.

    Attributes:
        timing: None if it was not measured, for the reason `problem`.
        peak_bytes: peak memory above an idle process, including weights; None if unknown.
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
        """Return the measurements as JSON."""
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
    """The exponents a of time ~ pixels^a, and of memory, fitted from `from_px` to `to_px`."""

    network: str
    direction: Direction
    from_px: int
    to_px: int
    time: float
    memory: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the exponents as JSON."""
        return vars(self).copy()


def cut(model: ModelRecipe, width: int) -> ModelRecipe:
    """Return a network with the widths of all levels scaled in proportion, the innermost to `width`.

    Raises:
        ValueError: the width of a level would not be a multiple of its head_dim.
    """
    full = model.levels[-1].width
    levels = tuple(_cut_level(level, width, full) for level in model.levels)
    mapping_width = max(2, model.mapping_width * width // full)
    return ModelRecipe.model_validate(
        model.model_copy(update={"levels": levels, "mapping_width": mapping_width, "num_classes": 0}).model_dump()
    )


def _cut_level(level: LevelRecipe, width: int, full: int) -> LevelRecipe:
    if level.width * width % (full * level.head_dim):
        raise ValueError(
            f"scaling {full} to {width} turns the width {level.width} into {level.width * width / full:g}, which is "
            f"not a multiple of head_dim = {level.head_dim}"
        )
    changes = {"width": level.width * width // full, "d_ff": level.hidden * width // full}
    return level.model_copy(update=changes)


def networks(width: int) -> dict[str, ModelRecipe]:
    """Return both networks at 128x128, with this width of HDiT's innermost level and of DiT."""
    flat = LevelRecipe(depth=DIT_B4.depth, width=DIT_B4.width, attention="global", d_ff=4 * DIT_B4.width)
    return {"HDiT-B/4": cut(HDIT_B4, width), "DiT-B/4": cut(HDIT_B4.model_copy(update={"levels": (flat,)}), width)}


def at_size(name: str, network: ModelRecipe, size_px: int) -> ModelRecipe:
    """Return a network for an image size: HDiT gets one more level per doubling, DiT is unchanged."""
    if name == "HDiT-B/4":
        return scale_to_size(network, (size_px, size_px))
    return network.model_copy(update={"image_size": (size_px, size_px)})


def bench_scaling(
    sizes_px: Sequence[int], width: int, dtype: torch.dtype, settings: BenchSettings, *, most_s: float = 30.0
) -> Iterator[ScalingFigure]:
    """Yield the measurements of both networks, size by size.

    Args:
        sizes_px: sides of the square images, ascending.
        width: of the innermost level.
        most_s: a size whose run would take longer, extrapolated from the size before, is skipped.
    """
    for name, network in networks(width).items():
        for direction in DIRECTIONS:
            rate = None  # FLOP/s at the previous size
            for size_px in sizes_px:
                model = at_size(name, network, size_px)
                figure = _figure(name, model, direction, rate, dtype, settings, most_s)
                result = f"{figure.timing.median_s:.3g} s" if figure.timing else figure.problem
                logger.info(f"{name} at {size_px}x{size_px}, {direction}: {result}")
                yield figure
                if figure.timing is None:
                    rate = 0.0 if rate is None else rate
                else:
                    rate = figure.flops / figure.timing.median_s


def _figure(
    name: str,
    model: ModelRecipe,
    direction: Direction,
    rate: float | None,
    dtype: torch.dtype,
    settings: BenchSettings,
    most_s: float,
) -> ScalingFigure:
    counted = count(model)
    passes = FORWARD_AND_BACKWARD if direction == "forward+backward" else 1
    flops = FLOPS_PER_MAC * passes * counted.macs
    problem, timing, peak_bytes = None, None, None
    if rate is not None and flops > most_s * rate:
        problem = f"would take about {flops / rate:,.0f} s" if rate else "the previous size did not fit"
    else:
        try:
            timing, peak_bytes = measure_in_child_process(
                _measure, model, direction, dtype, settings, settings=settings
            )
        except OutOfMemory as error:
            problem = str(error)
    known = (counted.parameters, flops, timing, peak_bytes, problem)
    return ScalingFigure(name, model.image_size[0], direction, *known)


def _measure(model: ModelRecipe, direction: Direction, dtype: torch.dtype, settings: BenchSettings) -> Timing:
    device = settings.device
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
    return interleaved({"step": stopwatch(act, lambda: synchronize(device))}, settings.rounds)["step"]


def exponents(figures: Sequence[ScalingFigure], from_px: int = FROM_PX) -> Iterator[Exponent]:
    """Yield the exponents of each network in each direction, fitted to its measured sizes from `from_px` on.

    With fewer than two of these, the two largest measured sizes are used; with a single one there is no fit.
    """
    for name, direction in dict.fromkeys((figure.network, figure.direction) for figure in figures):
        same = [figure for figure in figures if (figure.network, figure.direction) == (name, direction)]
        measured = [figure for figure in same if figure.timing]
        large = [figure for figure in measured if figure.size_px >= from_px]
        fitted = large if len(large) >= 2 else measured[-2:]
        if len(fitted) < 2:
            continue
        pixels = [figure.size_px**2 for figure in fitted]
        times = [figure.timing.median_s for figure in fitted if figure.timing]
        peaks = [figure.peak_bytes for figure in fitted if figure.peak_bytes]
        time = fitted_exponent(pixels, times)
        memory = fitted_exponent(pixels, peaks) if len(peaks) == len(pixels) else None
        assert time is not None  # the sizes differ
        yield Exponent(name, direction, fitted[0].size_px, fitted[-1].size_px, time, memory)
