"""What a sweep is asked for."""

from dataclasses import dataclass
from pathlib import Path

from hdit_core.checkpoint.load import Checkpoint
from hdit_core.errors import UsageError
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.evaluate.sweepgrid import Point, grid, read_intervals, read_numbers


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
