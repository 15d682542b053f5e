"""Searches EMA length, guidance and guidance interval for the lowest distance, by successive halving.

RUN/sweep/journal.jsonl     the settings that scores depend on, and every distance, as it is computed
RUN/sweep/reference.npz     statistics of the reference, if that is images
RUN/sweep/features/         features of the samples so far; removed at the end
RUN/sweep/curve.png         the distances of all rounds
RUN/sweep/winner.json       the score of the best candidate with more images, as from `hdit eval-fid --json`
RUN/sweep/report.html       the same as a report
RUN/sample.toml             the best candidate as the run's defaults, with `apply`
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hdit_core.checkpoint.load import Checkpoint, newest_checkpoint
from hdit_core.checkpoint.manifest import NAME as MANIFEST
from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.devices import make_mkl_reproducible, pick_device
from hdit_core.diffusion.guidance import Guide
from hdit_core.distributed import World
from hdit_core.errors import CheckpointError, UsageError, counted
from hdit_core.evaluate.extractors.extractor import Extractor, open_extractor, open_on_all
from hdit_core.evaluate.feature_batch import IMAGES_PER_CHUNK
from hdit_core.evaluate.features.cache import FeatureCache
from hdit_core.evaluate.features.gather import FeatureGather, translating_rank_errors
from hdit_core.evaluate.features.measure import measure
from hdit_core.evaluate.generated import check_classes, generated_images
from hdit_core.evaluate.inputs import (
    ALONE,
    check_enough,
    check_fit,
    open_guide,
    open_reference,
    with_default_reference,
)
from hdit_core.evaluate.metrics.confidence_intervals import NUM_BLOCKS, without_each_block
from hdit_core.evaluate.metrics.frechet_distance import FrechetTarget
from hdit_core.evaluate.metrics.statistics import Statistics
from hdit_core.evaluate.report.result import Score
from hdit_core.evaluate.score import saved_reference, score
from hdit_core.evaluate.sweep.defaults import apply_winner
from hdit_core.evaluate.sweep.journal import Journal, Trial, read_winner
from hdit_core.evaluate.sweep.plot import sweep_plot
from hdit_core.evaluate.sweep.search_space import Point, SweepSettings
from hdit_core.evaluate.sweep.successive_halving import halving_schedule, keep_best_half
from hdit_core.evaluate.sweep.weights import SweepWeights
from hdit_core.figures import PlotFormat, inline_svg
from hdit_core.files import digest, write_atomic
from hdit_core.generate.provenance import weights_sha256
from hdit_core.generate.settings import DEFAULT_WEIGHTS, sample_settings, with_sample

OnImages = Callable[[str, int, int | None], None]
"""Called with a task (the reference, or a candidate), the number of its images that are done, and the total."""

logger = logging.getLogger("hdit")


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep.

    Attributes:
        winner: the best candidate.
        score: its result at the larger number of images, as `Score.to_json` returns it.
        trials: the trials of all rounds, in order.
        ties: the other candidates of the last round whose 95 % interval contains the winner's distance.
        defaults: the file with the run's new defaults; None if they were not applied.
        curve: the plot of the trials.
    """

    winner: Point
    score: dict[str, Any]
    trials: tuple[Trial, ...]
    ties: tuple[Point, ...]
    defaults: Path | None
    curve: Path

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each trial, the best of the last round first."""
        order = sorted(self.trials, key=lambda trial: (-trial.n, trial.value))
        return [
            {"images": trial.n, "point": str(trial.point), "distance": trial.value, "error": trial.standard_error}
            for trial in order
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "winner": self.winner.to_json(),
            "score": self.score,
            "trials": [trial.to_json() for trial in self.trials],
            "ties": [point.to_json() for point in self.ties],
            "defaults": str(self.defaults) if self.defaults else None,
            "curve": str(self.curve),
        }


@translating_rank_errors()
def sweep(
    settings: SweepSettings, on_images: OnImages = lambda task, done, total: None, world: World = ALONE
) -> SweepResult | None:
    """Find the sampling settings of a run with the lowest distance; with `settings.apply` make them its defaults.

    The same call resumes an interrupted sweep, with the same result; a sweep with another grid reuses the trials.
    Image i of every candidate starts from the same noise, so candidates do not differ by chance.

    Args:
        settings: the run, the grid and the scoring.
        on_images: called with the task, the number of its images that are done, and the total.
        world: the ranks that share the work; all call this.

    Returns:
        The result; None on all ranks but the main one.

    Raises:
        UsageError: a setting is wrong, or the folder has the trials of another checkpoint or reference.
        RecipeError: the model does not support the guidance.
        CheckpointError: there is no such run, or it has no such weights.
        DataError: the reference is damaged, or of another extractor.
    """
    make_mkl_reproducible()  # before the first matrix product, so that a resumed sweep has the same bits
    checkpoint = _checkpoint(settings.run)
    scoring = replace(settings.scoring, guide_weights=settings.scoring.guide_weights or DEFAULT_WEIGHTS)
    scoring = with_default_reference(scoring, checkpoint.recipe, settings.run)
    settings, points = replace(settings, scoring=scoring), settings.points(checkpoint)
    _check_points(points, checkpoint)
    device = pick_device(scoring.device) if world is ALONE else world.device
    name = scoring.extractor or checkpoint.recipe.evaluate.extractor
    extractor = open_on_all(lambda: open_extractor(name, scoring.weights, device, scoring.mode), world)
    check_enough("--count", settings.n, extractor, scoring.allow_small_n)
    reference = open_reference(scoring.reference)
    check_fit(reference, extractor, scoring.allow_small_n)
    check_classes(checkpoint.recipe, reference.source if reference else {}, scoring.labels)
    weights = SweepWeights(settings.run, checkpoint, device)
    world.on_main_rank(lambda: weights.prepare({point.weights for point in points}))
    guide = open_guide(scoring, device)
    return _Sweep(settings, checkpoint, extractor, weights, guide, on_images, world).run()


def _check_points(points: Sequence[Point], checkpoint: Checkpoint) -> None:
    """Refuse settings that the network cannot have, of any candidate, before the first one is scored.

    Raises:
        RecipeError: as `sample_settings`.
    """
    for sample in {json.dumps(point.sample): point.sample for point in points}.values():
        sample_settings(checkpoint.recipe, **sample)


def _checkpoint(run: Path) -> Checkpoint:
    if (checkpoint := newest_checkpoint(run)[0]) is None:
        raise CheckpointError(f"{run}: no run with a checkpoint; expected the folder of hdit train")
    return checkpoint


class _Sweep:
    """A sweep in progress; all ranks call the same methods, the main one gets the numbers."""

    def __init__(
        self,
        settings: SweepSettings,
        checkpoint: Checkpoint,
        extractor: Extractor,
        weights: SweepWeights,
        guide: Guide | None,
        on_images: OnImages,
        world: World,
    ) -> None:
        self._settings, self._checkpoint, self._extractor, self._guide = settings, checkpoint, extractor, guide
        self._weights, self._on_images, self._world = weights, on_images, world
        self._folder, self._features = settings.folder, settings.folder / "features"
        self._gather = FeatureGather(world, extractor.num_features)
        self._journal = world.on_main_rank(self._open_journal)
        scoring = replace(settings.scoring, extractor=extractor.name, images=None, keep_features=self._features)
        path = self._folder / "reference.npz"
        reference = saved_reference(path, scoring, extractor, self._gather, partial(on_images, "reference"))
        self._scoring = replace(scoring, reference=reference.source["path"])  # the file, or what was given
        self._counts = reference.source.get("class_counts")
        self._target = FrechetTarget(reference.statistics) if world.is_main else None

    def run(self) -> SweepResult | None:
        """Run all rounds, score the best candidate again, and write the results."""
        least = IMAGES_PER_CHUNK if self._settings.scoring.allow_small_n else self._extractor.num_features + 1
        alive = list(self._settings.points(self._checkpoint))
        trials: list[Trial] = []
        for n in halving_schedule(len(alive), self._settings.n, least):
            logger.info(f"{counted(len(alive), 'candidate')} at {n:,} images")
            latest = [self._trial(point, n, f"{at}/{len(alive)} {point}") for at, point in enumerate(alive, 1)]
            trials += latest
            alive = keep_best_half({trial.point: trial.value for trial in latest})
        return self._finish(alive[0], tuple(trials))

    def _open_journal(self) -> Journal:
        scoring = self._settings.scoring
        reference = open_reference(scoring.reference)
        assert reference is not None  # by SweepSettings
        identity = reference.identity if isinstance(reference, ImageSet) else reference.statistics.fingerprint
        if isinstance(reference, ImageSet) and not identity:
            raise UsageError("--ref -: a stream can be read only once, and a sweep has to resume; pass a file")
        plan = {
            "step": self._checkpoint.state.step,
            "checkpoint": digest(self._checkpoint.folder / MANIFEST).sha256[:16],  # equal steps of other runs differ
            "sample": self._checkpoint.recipe.sample.model_dump(mode="json", exclude={"batch_size"}),
            "reference": identity or reference.source.get("sha256"),
            "extractor": self._extractor.provenance,
            "labels": scoring.labels,
            "seed": scoring.seed,
            **({} if self._guide is None else {"guide": weights_sha256(self._guide.denoiser)}),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        return Journal(self._folder, plan)

    def _trial(self, point: Point, n: int, label: str) -> Trial:
        """Return the distance of a candidate's first n images, from the journal if it is there, on all ranks."""
        trial = self._journal.trial(point, n) if self._journal else None
        if not self._world.broadcast(trial is not None):
            trial = self._score(point, n, label)
            if self._journal is not None and trial is not None:
                self._journal.add(trial)
        value, error = self._world.broadcast([trial.value, trial.standard_error] if trial else None)
        return Trial(point, n, value, error)

    def _score(self, point: Point, n: int, label: str) -> Trial | None:
        self._on_images(label, 0, n)  # starts the clock: the first batch can take minutes
        denoiser = self._weights.load(point.weights)
        denoiser = with_sample(denoiser, sample_settings(denoiser.recipe, **point.sample))
        path, scoring = str(self._weights.locate(point.weights)[0]), self._scoring
        guide = self._guide
        if guide is not None and point.autoguidance is not None:
            guide = replace(guide, weight=point.autoguidance)
        images = generated_images(denoiser, path, n, scoring.seed, scoring.labels, self._counts, guide=guide)
        measured = measure(
            images,
            self._extractor,
            scoring.batch_size,
            lambda done, _: self._on_images(label, done, n),
            num_blocks=NUM_BLOCKS,
            cache=FeatureCache(self._features, images, self._extractor, self._world.is_main),
            gather=self._gather,
        )
        return self._to_trial(point, measured.statistics) if measured else None

    def _to_trial(self, point: Point, a: Statistics) -> Trial:
        """Return the distance with its standard error by the jackknife over blocks of images."""
        assert self._target is not None and a.n is not None  # on the main rank, of counted images
        value = self._target.distance(a).value
        return Trial(point, a.n, value, without_each_block(value, a, self._target.quick_distance).standard_error)

    def _finish(self, winner: Point, trials: tuple[Trial, ...]) -> SweepResult | None:
        """Score the best candidate with more images, write the results, and remove the features."""
        path = self._folder / "winner.json"
        read = partial(read_winner, path, winner, self._settings.confirm)
        if not self._world.broadcast(self._world.is_main and read() is not None):
            confirmed = self._confirm(winner, trials)
            if confirmed is not None:
                write_atomic(path, json.dumps({**confirmed.to_json(), "point": winner.to_json()}, indent=1) + "\n")
        result = read() if self._world.is_main else None
        if result is None:
            return None
        write_atomic(curve := self._folder / "curve.png", self._plot(trials, winner, "png"))
        remark = f"hdit sweep at step {self._checkpoint.state.step}: {result['name']} {result['value']:.4f}"
        defaults = apply_winner(self._settings.run, winner, remark) if self._settings.apply else None
        shutil.rmtree(self._features, ignore_errors=True)
        return SweepResult(winner, result, trials, ties(winner, trials), defaults, curve)

    def _confirm(self, winner: Point, trials: tuple[Trial, ...]) -> Score | None:
        n, (path, weights) = self._settings.confirm, self._weights.locate(winner.weights)
        logger.info(f"scoring the best candidate again at {n:,} images: {winner}")
        figure = inline_svg(self._plot(trials, winner, "svg"))
        settings = replace(
            self._scoring,
            checkpoint=str(path),
            checkpoint_weights=weights,
            sampling=winner.sample,
            autoguidance=self._scoring.autoguidance if winner.autoguidance is None else winner.autoguidance,
            n=n,
            report=self._folder / "report.html",
            figures=[(f"Distances of the sweep; circled: {winner}", figure)],
        )
        self._on_images(f"winner {winner}", 0, n)
        result = score(settings, lambda done, _: self._on_images(f"winner {winner}", done, n), self._world)
        return result if isinstance(result, Score) else None

    def _plot(self, trials: tuple[Trial, ...], winner: Point, plot_format: PlotFormat) -> bytes:
        return sweep_plot(trials, self._extractor.metric, plot_format, winner)


def ties(winner: Point, trials: tuple[Trial, ...]) -> tuple[Point, ...]:
    """Return the other candidates of the last round whose 95 % interval contains the winner's distance."""
    last = [trial for trial in trials if trial.n == trials[-1].n]
    value = min(trial.value for trial in last if trial.point == winner)
    others = [trial for trial in last if trial.point != winner]
    return tuple(trial.point for trial in others if math.isnan(trial.margin) or trial.value - trial.margin <= value)
