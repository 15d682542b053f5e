"""What a sweep is asked for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hdit_core.checkpoint.load import Checkpoint
from hdit_core.errors import UsageError
from hdit_core.evaluate.feature_batch import whole_up_to
from hdit_core.evaluate.settings import ScoreSettings

MOST_VALUES = 1000
EVERYWHERE = "all"

Interval = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """One way to draw a run's images.

    Attributes:
        weights: which of the run's weights, as `load_denoiser` takes them.
        guidance: the guidance weight; None: the recipe's.
        interval: noise levels (low, high] at which there is guidance; None: the recipe's.
    """

    weights: str
    guidance: float | None = None
    interval: Interval | None = None

    @property
    def sample(self) -> dict[str, Any]:
        """The keys of the recipe's `[sample]` that it decides."""
        interval = None if self.interval is None else list(self.interval)
        found = {"guidance": self.guidance, "guidance_interval": interval}
        return {key: value for key, value in found.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON knows it; equal points, equal JSON."""
        return {"weights": self.weights, **self.sample}

    def __str__(self) -> str:
        parts = [f"weights {self.weights}"]
        if self.guidance is not None:
            parts.append(f"guidance {self.guidance:g}")
        if self.interval is not None:
            parts.append(f"interval {self.interval[0]:g}:{self.interval[1]:g}")
        return ", ".join(parts)


def read_numbers(option: str, text: str) -> tuple[float, ...]:
    """Read numbers and ranges with commas between: `"1:3:0.25,4"`, both ends of a range included.

    Raises:
        UsageError: it is no such list, or has more numbers than anybody tries.
    """
    found: list[float] = []
    for part in text.split(","):
        numbers = _floats(part)
        if len(numbers) == 1:
            found += numbers
            continue
        low, high, step = numbers if len(numbers) == 3 else (0.0, -1.0, 1.0)
        if not (low <= high and step > 0 and (high - low) / step < MOST_VALUES):
            raise UsageError(
                f"{option} {text}: expected numbers, or ranges as LOW:HIGH:STEP, with commas, such as 1:3:0.25,4"
            )
        found += [round(low + place * step, 9) for place in range(math.floor((high - low) / step + 1e-6) + 1)]
    return tuple(dict.fromkeys(found))


def read_intervals(option: str, text: str, everywhere: Interval | None) -> tuple[Interval | None, ...]:
    """Read `"all,0.2:5"`: noise levels between which there is guidance.

    Args:
        option: for messages.
        text: what was given.
        everywhere: what "all" means.

    Raises:
        UsageError: it is no such list.
    """
    found: list[Interval | None] = []
    for part in text.split(","):
        if part.strip() == EVERYWHERE:
            found.append(everywhere)
            continue
        numbers = _floats(part)
        if len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
            raise UsageError(f"{option} {text}: expected LOW:HIGH with 0 <= LOW < HIGH, or all, for example all,0.2:5")
        found.append((numbers[0], numbers[1]))
    return tuple(dict.fromkeys(found))


def _floats(part: str) -> list[float]:
    """Return the numbers between colons, none where one of them is none."""
    try:
        numbers = [float(number) for number in part.split(":")]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def grid(
    weights: Sequence[str], guidance: Sequence[float | None], intervals: Sequence[Interval | None]
) -> tuple[Point, ...]:
    """Return every combination once; without guidance (1) there are no intervals to tell apart."""
    points = (
        Point(name, scale, None if scale == 1 else interval)
        for name, scale, interval in product(weights, guidance, intervals)
    )
    return tuple(dict.fromkeys(points))


def halving_schedule(count: int, n: int, least: int) -> list[int]:
    """Return at how many images each round is held: n in the last, half of that before, never fewer than `least`.

    Args:
        count: of points; so many rounds that at least two are left for the last.
        n: images of the last round.
        least: images of any round.
    """
    sizes = [n]
    while len(sizes) < (count - 1).bit_length() and sizes[0] / 2 >= least:
        sizes.insert(0, min(whole_up_to(sizes[0] // 2), sizes[0]))  # whole pieces, which the next round goes on with
    return sizes


def keep_best_half(scores: dict[Point, float]) -> list[Point]:
    """Return the better half of the points, best first, but never fewer than two of several."""
    order = sorted(scores, key=lambda point: scores[point])  # stable: of equal ones those that come first in the grid
    return order[: max(math.ceil(len(order) / 2), min(2, len(order)))]


@dataclass(frozen=True)
class SweepSettings:
    """What is tried, and how it is judged.

    Attributes:
        run: a run's folder; its newest intact checkpoint is taken.
        scoring: reference, extractor, classes, seed and whatever else all points have in common.
        ema: the weights to try, with commas: ema, model, or lengths of averages.
        guidance: guidance weights, as numbers and ranges; None: the recipe's.
        interval: noise levels of guidance, with commas; None: the recipe's.
        n: images of the last round; earlier ones have half as many, and so on.
        confirm: images at which the best is scored again.
        out: folder of the sweep; default RUN/sweep.
    """

    run: Path
    scoring: ScoreSettings
    ema: str = "ema"
    guidance: str | None = None
    interval: str | None = None
    n: int = 8_000
    confirm: int = 50_000
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.confirm < self.n:
            raise UsageError(f"--confirm {self.confirm}: expected at least --n {self.n}, to be surer than that")
        if self.scoring.reference is None:
            raise UsageError("--ref is missing: a data set, a folder, or statistics made with hdit eval-fid stats")

    @property
    def folder(self) -> Path:
        """Where the sweep is kept."""
        return self.out or self.run / "sweep"

    def points(self, checkpoint: Checkpoint) -> tuple[Point, ...]:
        """Return the points that are tried.

        Raises:
            UsageError: something in the settings cannot be read.
        """
        sample = checkpoint.recipe.sample
        everywhere = (0.0, sample.sigma_max) if sample.guidance_interval else None
        guidance = read_numbers("--guidance", self.guidance) if self.guidance else (None,)
        intervals = read_intervals("--interval", self.interval, everywhere) if self.interval else (None,)
        return grid([name.strip() for name in self.ema.split(",")], guidance, intervals)
