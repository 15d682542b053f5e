"""The search for how a run's images are best drawn: which average, how much guidance, at which noise levels.

RUN/sweep/journal.jsonl     what is asked, and every distance found, as it is found
RUN/sweep/features/         of the images drawn so far; removed in the end
RUN/sweep/curve.png         distances of all rounds
RUN/sweep/winner.json       the best, scored again with more images, as `hdit eval-fid --json` has it; report.html
RUN/sample.toml             the best, as defaults for `hdit sample` and `hdit eval-fid`
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hdit_core.checkpoint.load import Checkpoint, newest_checkpoint
from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.devices import make_mkl_reproducible, pick_device
from hdit_core.distributed import World
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.evaluate.extractors.extractor import Extractor, Say, open_extractor
from hdit_core.evaluate.feature_batch import IMAGES_PER_CHUNK
from hdit_core.evaluate.features.gather import FeatureGather, translating_rank_errors
from hdit_core.evaluate.features.measure import Measurement
from hdit_core.evaluate.inputs import check_enough, check_fit, open_reference
from hdit_core.evaluate.report.result import Score
from hdit_core.evaluate.score import ALONE, open_on_all, score
from hdit_core.evaluate.statistics_file import load_statistics
from hdit_core.evaluate.sweep.journal import Journal, Trial, read_winner
from hdit_core.evaluate.sweep.plot import sweep_plot
from hdit_core.evaluate.sweep.search_space import Point, SweepSettings, halving_schedule, keep_best_half
from hdit_core.evaluate.sweep.trials import OnImages, SweepWeights, Trials
from hdit_core.figures import PlotFormat
from hdit_core.files import write_atomic
from hdit_core.generate.settings import write_defaults


@dataclass(frozen=True)
class SweepResult:
    """What was found.

    Attributes:
        winner: the best point.
        score: its result at the larger number of images, as `Score.to_json` gives it.
        trials: of all rounds, in their order.
        defaults: the file that says how the run's images are drawn now.
        curve: the picture of the trials.
    """

    winner: Point
    score: dict[str, Any]
    trials: tuple[Trial, ...]
    defaults: Path
    curve: Path

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each trial, the best of the last round first."""
        order = sorted(self.trials, key=lambda trial: (-trial.n, trial.value))
        return [
            {"images": trial.n, "point": str(trial.point), "distance": trial.value, "error": trial.standard_error}
            for trial in order
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON knows it."""
        return {
            "winner": self.winner.to_json(),
            "score": self.score,
            "trials": [trial.to_json() for trial in self.trials],
            "defaults": str(self.defaults),
            "curve": str(self.curve),
        }


@translating_rank_errors("another rank")
def sweep(
    settings: SweepSettings,
    on_images: OnImages = lambda point, done, total: None,
    say: Say = lambda _: None,
    world: World = ALONE,
) -> SweepResult | None:
    """Find the best way to draw a run's images, and make it the run's default.

    The same call again goes on where a killed one was, to the same end. Image i of every point begins with the same
    noise, so that points differ by what they do with it, not by luck.

    Args:
        settings: what and how.
        on_images: told of a point, how many of its images are done, and of how many.
        say: told of rounds, and of what takes long.
        world: the ranks that share the work; all call this.

    Returns:
        What was found; None on all ranks but the main one.

    Raises:
        UsageError: something asked for cannot be; or the folder holds another sweep.
        RecipeError: the run's network cannot be guided so.
        CheckpointError: there is no such run, or no such average of it.
        DataError: the reference is damaged, or of another extractor.
    """
    make_mkl_reproducible()  # before the first product, which a resumed sweep comes to by another way
    checkpoint, scoring = _checkpoint(settings.run), settings.scoring
    points = settings.points(checkpoint)
    device = pick_device(scoring.device) if world is ALONE else world.device
    name = scoring.extractor or checkpoint.recipe.evaluate.extractor
    extractor = open_on_all(lambda: open_extractor(name, scoring.weights, device, say, scoring.mode), world)
    check_enough("--n", settings.n, extractor, scoring.allow_small_n)
    reference = open_reference(scoring.reference)
    check_fit(reference, extractor, scoring.allow_small_n)
    assert reference is not None  # the settings saw to it
    weights = SweepWeights(settings.run, checkpoint, device)
    world.on_main_rank(lambda: weights.prepare({point.weights for point in points}, say))
    return _Sweep(settings, checkpoint, points, extractor, reference, weights, on_images, say, world).run()


def _checkpoint(run: Path) -> Checkpoint:
    checkpoint, _ = newest_checkpoint(run)
    if checkpoint is None:
        raise CheckpointError(f"{run}: no run with a checkpoint; expected the folder of hdit train")
    return checkpoint


class _Sweep:
    """A sweep at work."""

    def __init__(
        self,
        settings: SweepSettings,
        checkpoint: Checkpoint,
        points: tuple[Point, ...],
        extractor: Extractor,
        reference: ImageSet | Measurement,
        weights: SweepWeights,
        on_images: OnImages,
        say: Say,
        world: World,
    ) -> None:
        self._settings, self._checkpoint, self._points, self._extractor = settings, checkpoint, points, extractor
        self._weights, self._on_images, self._say, self._world = weights, on_images, say, world
        self._folder = settings.folder
        self._features = self._folder / "features"
        self._relay = FeatureGather(world, extractor.num_features)
        self._journal: Journal | None = None
        world.on_main_rank(lambda: self._open_journal(reference))
        self._scoring = replace(settings.scoring, extractor=extractor.name, images=None)
        measured = self._measured(reference) if isinstance(reference, ImageSet) else reference
        self._trials = self._make_trials(measured)

    def run(self) -> SweepResult | None:
        """Hold the rounds, confirm the best, and write what is asked for."""
        least = IMAGES_PER_CHUNK if self._scoring.allow_small_n else self._extractor.num_features + 1
        alive = list(self._points)
        held: list[Trial] = []
        for n in halving_schedule(len(alive), self._settings.n, least):
            self._say(f"{len(alive)} points at {n:,} images")
            trials = [self._trial(point, n) for point in alive]
            held += trials
            alive = keep_best_half({trial.point: trial.value for trial in trials})
        return self._end(alive[0], tuple(held))

    def _open_journal(self, reference: ImageSet | Measurement) -> None:
        identity = reference.identity if isinstance(reference, ImageSet) else reference.statistics.fingerprint
        if isinstance(reference, ImageSet) and not identity:
            raise UsageError("--ref -: a stream can be read once, and a sweep goes on after a kill; give a file")
        asked, scoring = self._settings, self._settings.scoring
        plan = {
            "step": self._checkpoint.state.step,
            "sample": self._checkpoint.recipe.sample.model_dump(mode="json", exclude={"batch_size"}),
            "reference": identity or reference.source.get("sha256"),
            "extractor": self._extractor.provenance,
            "grid": {"ema": asked.ema, "guidance": asked.guidance, "interval": asked.interval},
            "n": asked.n,
            "confirm": asked.confirm,
            "labels": scoring.labels,
            "seed": scoring.seed,
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(self._folder, plan)

    def _measured(self, reference: ImageSet) -> Measurement:
        """Measure the reference's images, once for all points."""
        path = self._folder / "reference.npz"
        if not self._on_all(path.exists):
            location = self._scoring.reference
            wanted = replace(self._scoring, images=location, reference=None, labels="balanced", save_stats=path)
            score(replace(wanted, keep_features=self._features), say=self._say, world=self._world)
            self._on_all(path.exists)  # wait until it is written
        self._scoring = replace(self._scoring, reference=str(path))
        return load_statistics(path)

    def _on_all(self, flag: Callable[[], bool]) -> bool:
        """Return on all ranks what the main one finds."""
        return bool(self._relay.broadcast(float(self._world.is_main and flag())))

    def _make_trials(self, reference: Measurement) -> Trials:
        return Trials(
            self._weights.load,
            reference,
            self._extractor,
            self._features,
            seed=self._scoring.seed,
            labels=self._scoring.labels,
            batch_size=self._scoring.batch_size,
            gather=self._relay,
            on_images=self._on_images,
        )

    def _trial(self, point: Point, n: int) -> Trial:
        """Return a point's distance, from the journal where it is there; all ranks learn it."""
        found = self._journal.value(point, n) if self._journal else None
        if math.isnan(value := self._relay.broadcast(found.value if found else math.nan)):
            found = self._trials.run(point, n)
            if self._journal is not None and found is not None:
                self._journal.add(found)
            value = self._relay.broadcast(found.value if found else math.nan)
        return found or Trial(point, n, value, None)

    def _curve(self, trials: tuple[Trial, ...], winner: Point, plot_format: PlotFormat) -> bytes:
        return sweep_plot(trials, self._extractor.metric, plot_format, winner)

    def _end(self, winner: Point, trials: tuple[Trial, ...]) -> SweepResult | None:
        """Score the best with more images, write it down, and leave the features' room to others."""
        path = self._folder / "winner.json"
        if not self._on_all(path.exists):
            confirmed = self._confirm(winner, trials)
            if confirmed is not None:
                write_atomic(path, json.dumps(confirmed.to_json(), indent=1) + "\n")
        if not self._world.is_main:
            return None
        found = read_winner(path)
        write_atomic(curve := self._folder / "curve.png", self._curve(trials, winner, "png"))
        remark = f"found by hdit sweep at step {self._checkpoint.state.step}: {found['name']} {found['value']:.4f}"
        defaults = write_defaults(self._settings.run, winner.weights, winner.sample, remark)
        shutil.rmtree(self._features, ignore_errors=True)
        return SweepResult(winner, found, trials, defaults, curve)

    def _confirm(self, winner: Point, trials: tuple[Trial, ...]) -> Score | None:
        n, (path, weights) = self._settings.confirm, self._weights.place(winner.weights)
        self._say(f"the best: {winner}; again at {n:,} images")
        wanted = replace(
            self._scoring,
            checkpoint=str(path),
            checkpoint_weights=weights,
            drawn=winner.sample,
            n=n,
            keep_features=self._features,
            report=self._folder / "report.html",
            figures=[(f"Distances of the sweep; circled: {winner}", self._curve(trials, winner, "svg").decode())],
        )
        found = score(wanted, lambda done, _: self._on_images(winner, done, n), world=self._world)
        return found if isinstance(found, Score) else None
