"""Evaluation during training: samples of the EMA weights against a reference, every `train.eval_every_images`.

RUN/scores.jsonl           one line per evaluation: {"step": 1500, "num_images": 96000, "fid5k": 12.3, "kid": 0.0045}
RUN/reference-<name>.npz   statistics of the reference, computed once
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from hdit_core import jsonl
from hdit_core.checkpoint.layout import checkpoint_folder, scores_file
from hdit_core.checkpoint.log import cut_back_scores
from hdit_core.checkpoint.retention import mark_best
from hdit_core.checkpoint.state import State
from hdit_core.data.image_sets.image_set import ImageSet, ReadImage
from hdit_core.data.loader.conditioning import conditioning_of
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import HditError, UsageError
from hdit_core.evaluate.extractors.extractor import Extractor, open_extractor, open_on_all
from hdit_core.evaluate.feature_batch import by_chunk
from hdit_core.evaluate.features.gather import FeatureGather, MeasurementStopped
from hdit_core.evaluate.features.measure import Measurement, measure
from hdit_core.evaluate.generated import generated_images
from hdit_core.evaluate.inputs import LEAST_FOR_KERNEL
from hdit_core.evaluate.metrics.frechet_distance import FrechetTarget
from hdit_core.evaluate.metrics.kernel_distance import kernel_distance
from hdit_core.evaluate.metrics.statistics import Statistics
from hdit_core.evaluate.report.result import name_with_count
from hdit_core.evaluate.score import saved_reference
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.generate.dataset_conditions import DatasetConditions, spread_of_size
from hdit_core.generate.pipeline import ConditionSource
from hdit_core.recipe.train import TrainRecipe
from hdit_core.train.parallel.parallelize import is_sharded
from hdit_core.train.run_context import RunContext
from hdit_core.train.step.train_step import Learner

logger = logging.getLogger("hdit")

Asked = Callable[[], bool]


def is_due(train: TrainRecipe, num_images: int) -> bool:
    """Return whether an evaluation is due after so many images."""
    every = train.eval_every_images
    if not every or not num_images:
        return False
    before = num_images - train.batch_size_at(num_images - 1)
    return num_images >= train.num_images or num_images // every != before // every


def open_scores(context: RunContext, learner: Learner, start: State) -> "PeriodicEvaluation | None":
    """Open the extractor, and compute the statistics of the reference unless they exist; None without evaluation.

    All ranks call this at the start, so that missing parts are found before the first step.

    Raises:
        UsageError: there is no such extractor, or no such reference.
        DataError: the reference is damaged, or from another extractor.
        HditError: the extractor's weights cannot be loaded.
    """
    if not context.recipe.train.eval_every_images:
        return None
    world, name = context.world, context.recipe.evaluate.extractor
    extractor = open_on_all(lambda: _extractor(name, world.device), world)
    gather = FeatureGather(world, extractor.num_features)
    location = context.recipe.evaluate.reference or context.recipe.data.path
    path = context.folder / f"reference-{extractor.name}.npz"
    on_progress = partial(context.callbacks.on_evaluation, "reference image")
    reference = saved_reference(path, ScoreSettings(None, location), extractor, gather, on_progress)
    return PeriodicEvaluation(context, learner, start, extractor, gather, reference, _conditions(context))


def _conditions(context: RunContext) -> ConditionSource | None:
    """Return the conditions of the samples: those of images of the data set, evenly spread over it.

    Raises:
        UsageError: the data set has no image of the size that is sampled.
    """
    recipe, conditioning = context.recipe, conditioning_of(context.recipe)
    if not conditioning.is_needed:
        return None
    indices = spread_of_size(context.reader, recipe.model.image_size, recipe.train.eval_num_images)
    if not indices:
        size = "x".join(map(str, recipe.model.image_size))
        raise UsageError(
            f"{recipe.data.path}: has no images of {size}, whose conditions the samples of train.eval_every_images "
            "need; set it to 0, or change model.image_size"
        )
    return DatasetConditions(context.reader, conditioning, recipe.train.seed, indices)


def _extractor(name: str, device: torch.device) -> Extractor:
    """Open a feature network; its errors name the recipe's keys."""
    try:
        return open_extractor(name, None, device)
    except HditError as error:
        raise type(error)(
            f"train.eval_every_images needs evaluate.extractor = {name!r}: {error} (use --set "
            "evaluate.extractor=NAME, or --set train.eval_every_images=0 to train without evaluation)"
        ) from None


class PeriodicEvaluation:
    """Evaluates a run, and marks its best checkpoint."""

    def __init__(
        self,
        context: RunContext,
        learner: Learner,
        start: State,
        extractor: Extractor,
        gather: FeatureGather,
        reference: Measurement,
        conditions: ConditionSource | None,
    ) -> None:
        self._learner, self._run, self._extractor = learner, context.folder, extractor
        self._on_progress = partial(context.callbacks.on_evaluation, "evaluation sample")
        self._gather, self._reference, self._conditions = gather, reference, conditions
        self._target = FrechetTarget(reference.statistics) if gather.world.is_main else None
        self._lines = cut_back_scores(self._run, start.step) if gather.world.is_main else []
        is_scored = any(line["num_images"] == start.num_images for line in self._lines)
        self._scored_at = start.num_images if gather.world.broadcast(is_scored) else -1

    def due(self, state: State) -> bool:
        """Return whether an evaluation is due and has not been done."""
        return is_due(self._learner.recipe.train, state.num_images) and state.num_images != self._scored_at

    def take(self, state: State, asked_to_stop: Asked) -> None:
        """Evaluate the EMA weights, append the scores, and mark the checkpoint of this step if it is the best.

        All ranks call this, after the checkpoint is written. If any of them is asked to stop, it ends soon without
        scores; the run is evaluated when it resumes.
        """
        try:
            statistics = self._measure(state, asked_to_stop)
        except MeasurementStopped:
            return
        self._scored_at = state.num_images
        if statistics is not None:
            self._write(state, self._values(statistics))

    def _measure(self, state: State, asked_to_stop: Asked) -> Statistics | None:
        """Return the statistics of the samples, on the main rank.

        A sharded network needs all ranks for every image: each generates all of them, and the main one extracts
        features. Otherwise each rank does its part of the set.
        """
        learner, world = self._learner, self._learner.world
        denoiser = Denoiser(learner.ema.network, learner.recipe)
        n = learner.recipe.train.eval_num_images
        weights = f"step {state.step}"
        images = generated_images(denoiser, str(self._run), n, 0, weights=weights, conditions=self._conditions)
        if not is_sharded(learner.ema.network):
            images = _stoppable(images, asked_to_stop)
            measured = measure(images, self._extractor, on_progress=self._on_progress, gather=self._gather)
            return measured.statistics if measured else None
        images = _stoppable(images, lambda: world.any(asked_to_stop()))
        if world.is_main:
            measured = measure(images, self._extractor, on_progress=self._on_progress)
            return measured.statistics if measured else None
        for _ in images.readers():
            pass
        return None

    def _values(self, statistics: Statistics) -> dict[str, float]:
        assert self._target is not None  # this is the main rank
        name = name_with_count(self._extractor.metric, statistics.n)
        values = {name: self._target.distance(statistics).value}
        reference = self._reference.statistics.features
        if min(len(statistics.features), len(reference)) >= LEAST_FOR_KERNEL:
            values[self._extractor.kernel_metric] = kernel_distance(statistics.features, reference).value
        return values

    def _write(self, state: State, scores: dict[str, float]) -> None:
        """Append a line, and mark the best of the checkpoints that exist."""
        self._lines.append({"step": state.step, "num_images": state.num_images, **scores})
        jsonl.append(scores_file(self._run), self._lines[-1])
        key = list(scores)[-1 if self._learner.recipe.train.eval_metric == "kernel" else 0]
        existing = [line for line in self._lines if key in line and checkpoint_folder(self._run, line["step"]).is_dir()]
        best = min(existing, key=lambda line: line[key], default=None)
        values = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        suffix = " (the best)" if best is self._lines[-1] else ""
        logger.info("score after %s images: %s%s", f"{state.num_images:,}", values, suffix)
        if best is not None:
            mark_best(self._run, checkpoint_folder(self._run, best["step"]), {"metric": key, **best})


def _stoppable(images: ImageSet, asked_to_stop: Asked) -> ImageSet:
    """Return the same set, which raises before a chunk once a stop is requested."""

    def read(indices: Sequence[int]) -> Iterator[ReadImage]:
        for chunk in by_chunk(indices):
            if asked_to_stop():
                raise MeasurementStopped
            yield from images.open(chunk)

    return replace(images, open=read)
