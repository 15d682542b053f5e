"""The search space of a sweep: candidates and settings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hdit_core.checkpoint.load import Checkpoint
from hdit_core.errors import UsageError
from hdit_core.evaluate.settings import ScoreSettings

MOST_VALUES = 1000
EVERYWHERE = "all"

Interval = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """A candidate: sampling settings of a run.

    Attributes:
        weights: the run's weights, as `load_denoiser` takes them.
        guidance: the guidance scale; None: the recipe's.
        interval: noise levels (low, high] at which guidance is applied; None: the recipe's.
        autoguidance: the autoguidance scale; None: without a guide.
    """

    weights: str
    guidance: float | None = None
    interval: Interval | None = None
    autoguidance: float | None = None

    @property
    def sample(self) -> dict[str, Any]:
        """The keys of the recipe's `[sample]` that it sets."""
        interval = None if self.interval is None else list(self.interval)
        keys = {"guidance": self.guidance, "guidance_interval": interval}
        return {key: value for key, value in keys.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Return the candidate as JSON values; equal candidates have equal JSON."""
        scale = {} if self.autoguidance is None else {"autoguidance": self.autoguidance}
        return {"weights": self.weights, **self.sample, **scale}

    def __str__(self) -> str:
        parts = [f"weights {self.weights}"]
        if self.guidance is not None:
            parts.append(f"guidance {self.guidance:g}")
        if self.autoguidance is not None:
            parts.append(f"autoguidance {self.autoguidance:g}")
        if self.interval is not None:
            parts.append(f"interval {self.interval[0]:g}:{self.interval[1]:g}")
        return ", ".join(parts)


def read_numbers(option: str, text: str) -> tuple[float, ...]:
    """Return comma-separated numbers and ranges such as `"1:3:0.25,4"`; both ends of a range are included.

    Raises:
        UsageError: the text is not such a list, or a range has more than 1,000 numbers.
    """
    values: list[float] = []
    for part in text.split(","):
        numbers = _floats(part)
        if len(numbers) == 1:
            values += numbers
            continue
        low, high, step = numbers if len(numbers) == 3 else (0.0, -1.0, 1.0)
        if not (low <= high and step > 0 and (high - low) / step < MOST_VALUES):
            raise UsageError(
                f"{option} {text}: expected comma-separated numbers or ranges LOW:HIGH:STEP, such as 1:3:0.25,4"
            )
        values += [round(low + index * step, 9) for index in range(math.floor((high - low) / step + 1e-6) + 1)]
    return tuple(dict.fromkeys(values))


def read_intervals(option: str, text: str, everywhere: Interval | None) -> tuple[Interval | None, ...]:
    """Return intervals of noise levels at which guidance is applied, from a list such as `"all,0.2:5"`.

    Args:
        option: the option's name, for messages.
        text: the list.
        everywhere: the meaning of "all".

    Raises:
        UsageError: the text is not such a list.
    """
    intervals: list[Interval | None] = []
    for part in text.split(","):
        if part.strip() == EVERYWHERE:
            intervals.append(everywhere)
            continue
        numbers = _floats(part)
        if len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
            raise UsageError(f"{option} {text}: expected LOW:HIGH with 0 <= LOW < HIGH, or all, for example all,0.2:5")
        intervals.append((numbers[0], numbers[1]))
    return tuple(dict.fromkeys(intervals))


def _floats(part: str) -> list[float]:
    """Return colon-separated numbers, an empty list if one of them is not a finite number."""
    try:
        numbers = [float(number) for number in part.split(":")]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def grid(
    weights: Sequence[str],
    guidance: Sequence[float | None],
    intervals: Sequence[Interval | None],
    autoguidance: Sequence[float | None] = (None,),
    recipe_guidance: float | None = None,
) -> tuple[Point, ...]:
    """Return every combination once; without guidance (both scales 1) the interval has no effect.

    Args:
        weights, guidance, intervals, autoguidance: the values of each.
        recipe_guidance: the scale of candidates whose guidance is None.
    """

    def guided(scale: float | None, auto: float | None) -> bool:
        return (recipe_guidance if scale is None else scale) != 1 or auto not in (None, 1)

    points = (
        Point(name, scale, interval if guided(scale, auto) else None, auto)
        for name, scale, auto, interval in product(weights, guidance, autoguidance, intervals)
    )
    return tuple(dict.fromkeys(points))


@dataclass(frozen=True)
class SweepSettings:
    """The grid of a sweep, and how its candidates are scored.

    Attributes:
        run: a run's folder; its newest valid checkpoint is used.
        scoring: reference (default: the run's data), extractor, classes, seed, guide and everything else that all
            candidates have in common.
        ema: the weights to try, comma-separated: ema, model, or EMA lengths.
        guidance: guidance scales, as numbers and ranges; None: the recipe's.
        interval: guidance intervals, comma-separated; None: the recipe's.
        autoguidance: scales of autoguidance by the guide of `scoring`, as numbers and ranges.
        n: images per candidate in the last round; half as many in the one before, and so on.
        confirm: images at which the best candidate is scored again.
        out: folder of the sweep; default RUN/sweep.
        apply: make the best candidate the run's default.
    """

    run: Path
    scoring: ScoreSettings
    ema: str = "ema"
    guidance: str | None = None
    interval: str | None = None
    autoguidance: str | None = None
    n: int = 8_000
    confirm: int = 50_000
    out: Path | None = None
    apply: bool = False

    def __post_init__(self) -> None:
        if self.confirm < self.n:
            raise UsageError(f"--confirm {self.confirm}: expected at least --count {self.n}")
        if (self.scoring.guide is None) != (self.autoguidance is None):
            raise UsageError("--guide CKPT and --autoguidance LIST: give both, or neither; for example 1:3:0.5")
        if self.apply and self.scoring.guide is not None:
            raise UsageError(
                "--apply: RUN/sample.toml cannot hold a guide; leave it out, and pass --guide and --autoguidance to "
                "hdit sample"
            )

    @property
    def folder(self) -> Path:
        """The folder of the sweep."""
        return self.out or self.run / "sweep"

    def points(self, checkpoint: Checkpoint) -> tuple[Point, ...]:
        """Return the candidates.

        Raises:
            UsageError: a list in the settings is malformed.
        """
        sample = checkpoint.recipe.sample
        everywhere = (0.0, sample.sigma_max) if sample.guidance_interval else None
        guidance = read_numbers("--guidance", self.guidance) if self.guidance else (None,)
        intervals = read_intervals("--guidance-interval", self.interval, everywhere) if self.interval else (None,)
        auto = read_numbers("--autoguidance", self.autoguidance) if self.autoguidance else (None,)
        return grid([name.strip() for name in self.ema.split(",")], guidance, intervals, auto, sample.guidance)
