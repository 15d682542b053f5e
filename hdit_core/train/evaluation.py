"""Scores on the way: the averaged network's samples against the training images, every `train.eval_every_images`.

RUN/scores.jsonl           a line each time: {"step": 1500, "num_images": 96000, "fid5k": 12.3, "kid": 0.0045}
RUN/reference-<name>.npz   statistics of what is compared with, measured once
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hdit_core import jsonl
from hdit_core.checkpoint.layout import checkpoint_folder, scores_file
from hdit_core.checkpoint.log import cut_back_scores
from hdit_core.checkpoint.retention import mark_best
from hdit_core.checkpoint.state import State
from hdit_core.data.image_sets.image_set import ImageSet, ReadImage
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import HditError
from hdit_core.evaluate.extractors.extractor import Extractor, open_extractor
from hdit_core.evaluate.feature_batch import by_chunk
from hdit_core.evaluate.features.gather import FeatureGather, RankFailed
from hdit_core.evaluate.features.measure import Measurement, assist, measure
from hdit_core.evaluate.generated import generated_images
from hdit_core.evaluate.inputs import LEAST_FOR_KERNEL, check_fit, open_reference
from hdit_core.evaluate.metrics.frechet_distance import FrechetTarget
from hdit_core.evaluate.metrics.kernel_distance import kernel_distance
from hdit_core.evaluate.metrics.statistics import Statistics
from hdit_core.evaluate.report.result import name_with_count
from hdit_core.evaluate.score import open_on_all, score
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.evaluate.statistics_file import load_statistics
from hdit_core.recipe.train import TrainRecipe
from hdit_core.train.parallel.parallelize import is_sharded
from hdit_core.train.step.train_step import Learner

OnNote = Callable[[str], None]
Asked = Callable[[], bool]


class Abandoned(Exception):
    """Somebody asked the run to stop while it was scored: it is saved, and is scored when it goes on."""


def is_due(train: TrainRecipe, num_images: int) -> bool:
    """Return whether a run is to be scored after so many images."""
    every = train.eval_every_images
    if not every or not num_images:
        return False
    before = num_images - train.batch_size_at(num_images - 1)
    return num_images >= train.num_images or num_images // every != before // every


def open_scores(learner: Learner, run: Path, start: State, on_note: OnNote) -> "PeriodicEvaluation | None":
    """Open what scores are taken with, and measure the reference if that is still to be done; None if none are wanted.

    All ranks call this, at the beginning: what is missing shows before the first image is trained on.

    Raises:
        UsageError: there is no such extractor, or no such reference.
        DataError: the reference is damaged, or of another extractor.
        HditError: the extractor's weights cannot be had.
    """
    if not learner.recipe.train.eval_every_images:
        return None
    wanted, world, device = learner.recipe.evaluate, learner.world, learner.device
    extractor = open_on_all(lambda: _extractor(wanted.extractor, device, on_note), world)
    gather = FeatureGather(world, extractor.num_features)
    reference = _reference(learner, run, extractor, gather, on_note)
    return PeriodicEvaluation(learner, run, start, extractor, gather, reference, on_note)


def _extractor(name: str, device: torch.device, on_note: OnNote) -> Extractor:
    """Open a feature network; what keeps it from being opened is told in the words of a recipe."""
    try:
        return open_extractor(name, None, device, on_note)
    except HditError as error:
        raise type(error)(
            f"train.eval_every_images needs evaluate.extractor = {name!r}: {error} (for a run: --set "
            "evaluate.extractor=NAME, or --set train.eval_every_images=0 for no scores)"
        ) from None


def _reference(
    learner: Learner, run: Path, extractor: Extractor, gather: FeatureGather, on_note: OnNote
) -> Measurement:
    """Return the statistics that are compared with: saved ones, or those of images, measured once for the run."""
    location = learner.recipe.evaluate.reference or learner.recipe.data.path
    found = open_reference(location)
    check_fit(found, extractor, allow_small_n=True)
    if isinstance(found, Measurement):
        return found
    assert found is not None  # there is a location
    path = run / f"reference-{extractor.name}.npz"
    if not gather.broadcast(float(learner.world.is_main and _is_of(path, found))):
        on_note(f"measuring {location}, which scores compare with, once")
        settings = ScoreSettings(location, None, extractor=extractor.name, device=str(learner.device))
        score(replace(settings, save_stats=path, allow_small_n=True), world=learner.world)
        gather.broadcast(0.0)  # wait until it is written
    return load_statistics(path)


def _is_of(path: Path, images: ImageSet) -> bool:
    """Return whether statistics are those of a data set."""
    return path.is_file() and load_statistics(path).source.get("root") == images.source.get("root", "another")


@dataclass(frozen=True)
class ScoreRecord:
    """A line of the scores."""

    step: int
    num_images: int
    values: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "num_images": self.num_images, **self.values}


class PeriodicEvaluation:
    """Takes the scores of a run, and keeps its best checkpoint marked."""

    def __init__(
        self,
        learner: Learner,
        run: Path,
        start: State,
        extractor: Extractor,
        gather: FeatureGather,
        reference: Measurement,
        on_note: OnNote,
    ) -> None:
        self._learner, self._run, self._extractor, self._on_note = learner, run, extractor, on_note
        self._relay, self._reference = gather, reference
        self._target = FrechetTarget(reference.statistics) if gather.world.is_main else None
        self._lines = cut_back_scores(run, start.step) if gather.world.is_main else []
        is_there = any(line["num_images"] == start.num_images for line in self._lines)
        self._is_scored = start.num_images if gather.broadcast(float(is_there)) else -1

    def due(self, state: State) -> bool:
        """Return whether the run is to be scored where it stands, and is not yet."""
        return is_due(self._learner.recipe.train, state.num_images) and state.num_images != self._is_scored

    def take(self, state: State, asked_to_stop: Asked) -> None:
        """Score the averaged network, write it down, and mark the checkpoint of this step if it is the best.

        All ranks call this, after the checkpoint is written. Where any of them is asked to stop it ends soon, with no
        score; the run is scored when it goes on.
        """
        try:
            statistics = self._measure(state, asked_to_stop)
        except Abandoned:
            return
        self._is_scored = state.num_images
        if statistics is not None:
            self._write(ScoreRecord(state.step, state.num_images, self._values(statistics)))

    def _measure(self, state: State, asked_to_stop: Asked) -> Statistics | None:
        """Return the statistics of the samples, on the main rank."""
        learner, train = self._learner, self._learner.recipe.train
        denoiser = Denoiser(learner.ema.network, learner.recipe)
        together = is_sharded(learner.ema.network)  # then every rank draws all, with the parts of the others
        drawn = generated_images(denoiser, str(self._run), train.eval_num_images, 0, weights=f"step {state.step}")
        any_asked = _asked_anywhere(asked_to_stop, learner, together, f"score {state.num_images}")
        images = _stoppable(drawn, any_asked)
        if learner.world.is_main:
            try:
                return measure(images, self._extractor, gather=None if together else self._relay).statistics
            except Abandoned:
                if not together:
                    self._relay.drain()
                raise
            except RankFailed:
                if not any_asked():
                    raise
                self._relay.drain()
                raise Abandoned from None  # that rank was asked, or looked, before this one
        if not together:
            assist(images, self._extractor, gather=self._relay)
        else:
            for _ in images.readers():
                pass
        return None

    def _values(self, statistics: Statistics) -> dict[str, float]:
        assert self._target is not None  # this is the main rank
        name = name_with_count(self._extractor.metric, statistics.n)
        found = {name: self._target.distance(statistics).value}
        theirs = self._reference.statistics.features
        if min(len(statistics.features), len(theirs)) >= LEAST_FOR_KERNEL:
            found[self._extractor.kernel_metric] = kernel_distance(statistics.features, theirs).value
        return found

    def _write(self, standing: ScoreRecord) -> None:
        """Append a line, and look whether it is the best of those whose checkpoints are there."""
        self._lines.append(standing.to_json())
        jsonl.append(scores_file(self._run), standing.to_json())
        key = list(standing.values)[-1 if self._learner.recipe.train.eval_metric == "kernel" else 0]
        there = [line for line in self._lines if key in line and checkpoint_folder(self._run, line["step"]).is_dir()]
        best = min(there, key=lambda line: line[key], default=None)
        said = ", ".join(f"{name} {value:.4g}" for name, value in standing.values.items())
        self._on_note(
            f"score after {standing.num_images:,} images: {said}{' (the best)' if best is self._lines[-1] else ''}"
        )
        if best is not None:
            mark_best(self._run, checkpoint_folder(self._run, best["step"]), {"metric": key, **best})


def _stoppable(images: ImageSet, any_asked: Asked) -> ImageSet:
    """Return the same set, which looks before each piece whether to go on."""

    def read(places: Sequence[int]) -> Iterator[ReadImage]:
        for piece in by_chunk(places):
            if any_asked():
                raise Abandoned
            yield from images.open(piece)

    return replace(images, open=read)


def _asked_anywhere(asked: Asked, learner: Learner, together: bool, key: str) -> Asked:
    """Return what says whether any rank is asked to stop.

    Ranks that draw together look together. Those with shares of their own must not wait for each other to look, since
    each is ahead of the main one by what it likes: they leave word in the common store.
    """
    store = learner.world.store
    if together or store is None:
        return lambda: learner.world.any(asked())

    def look() -> bool:
        if asked():
            store.set(key, "asked")
        return bool(store.check([key]))

    return look
