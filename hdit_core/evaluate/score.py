"""Scores a set of images against a reference: checks the settings, measures both sets, computes all metrics."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.devices import make_mkl_reproducible, pick_device
from hdit_core.distributed import World
from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.extractors.extractor import Extractor, open_extractor, open_on_all
from hdit_core.evaluate.features.cache import FeatureCache
from hdit_core.evaluate.features.gather import FeatureGather, translating_rank_errors
from hdit_core.evaluate.features.measure import FeatureObserver, Measurement, OnProgress, measure
from hdit_core.evaluate.inputs import (
    ALONE,
    LEAST_FOR_KERNEL,
    check_enough,
    check_fit,
    default_extractor,
    open_guide,
    open_model,
    open_reference,
    open_scored,
    remarks_on,
    start_scoring,
    with_default_reference,
)
from hdit_core.evaluate.metrics.confidence_intervals import NUM_BLOCKS, Estimate, distance_interval
from hdit_core.evaluate.metrics.frechet_distance import FrechetTarget
from hdit_core.evaluate.metrics.inception_score import InceptionScore
from hdit_core.evaluate.metrics.kernel_distance import kernel_distance
from hdit_core.evaluate.metrics.nearest_neighbors import DigestIndex, NearestSearch, Neighbors
from hdit_core.evaluate.metrics.precision_recall import precision_recall
from hdit_core.evaluate.metrics.statistics import Statistics
from hdit_core.evaluate.report.html_report import write_report
from hdit_core.evaluate.report.result import SavedStatistics, Score
from hdit_core.evaluate.report.sheets import FirstImages, neighbor_sheet
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.evaluate.statistics_file import load_statistics, read_identity, save_statistics
from hdit_core.files import write_atomic
from hdit_core.images import png_bytes

# The metrics besides the two distances. Each returns its estimates by name, or none if there are too few images.
METRICS: tuple[Callable[[Statistics, Statistics], dict[str, Estimate]], ...] = (precision_recall,)

logger = logging.getLogger("hdit")


@translating_rank_errors()
def score(
    settings: ScoreSettings, on_progress: OnProgress = lambda done, total: None, world: World = ALONE
) -> Score | SavedStatistics | None:
    """Score images against a reference, or save their statistics without one.

    Args:
        settings: what is scored, and how.
        on_progress: called with the number of images of both sets that are done, and the total.
        world: the ranks that share the work; all of them call this, with the same settings.

    Returns:
        The result, bit-identical for any number of ranks; None on all ranks but the main one.

    Raises:
        UsageError: the settings contradict each other, or a set is too small.
        DataError: a set is empty, damaged, or of another extractor.
        HditError: as `open_extractor`; or another rank failed.
    """
    device = start_scoring(settings, world)
    model = open_model(settings, device)
    settings = with_default_reference(settings, model.recipe if model else None, settings.checkpoint)
    reference = open_reference(settings.reference)
    images = open_scored(settings, model, reference, open_guide(settings, device))
    name = default_extractor(settings, model)
    extractor = open_on_all(lambda: open_extractor(name, settings.weights, device, settings.mode), world)
    for side in (images, reference):
        check_fit(side, extractor, settings.allow_small_n)
    gather = FeatureGather(world, extractor.num_features)
    return _Scoring(settings, images, reference, extractor, on_progress, gather).run()


class _Scoring:
    """One score in progress."""

    def __init__(
        self,
        settings: ScoreSettings,
        images: ImageSet,
        reference: ImageSet | Measurement | None,
        extractor: Extractor,
        on_progress: OnProgress,
        gather: FeatureGather,
    ) -> None:
        self.settings, self.reference, self.extractor = settings, reference, extractor
        self._on_progress, self._gather = on_progress, gather
        self._first = FirstImages(images) if settings.report is not None and not images.identity else None
        self.images = self._first.images if self._first else images
        self._classes = InceptionScore(extractor.class_logits) if extractor.class_logits else None
        self._indices = DigestIndex()
        self._neighbors: Neighbors | None = None

    def run(self) -> Score | SavedStatistics | None:
        """Measure both sides, compare them, and write the requested files; all ranks call this."""
        observers: list[FeatureObserver] = [self._indices, *([self._classes] if self._classes else [])]
        scored = self._measure(self.images, 0, observers, 1 if self.reference is None else NUM_BLOCKS)
        if scored is not None:
            self._check_and_save(scored)
        if self.reference is None:
            assert self.settings.save_stats is not None  # by check_settings
            return SavedStatistics(self.settings.save_stats, scored) if scored else None
        reference = self._measure_reference(scored)
        if scored is None or reference is None:
            return None  # this is not the main rank
        result = self._compare(scored, reference)
        self._write_files(result)
        return result

    def _check_and_save(self, scored: Measurement) -> None:
        # again, since the length of a stream is known only now
        check_enough(scored.source["path"], scored.statistics.n, self.extractor, self.settings.allow_small_n)
        if self.settings.save_stats is not None:
            save_statistics(self.settings.save_stats, scored, self.images.identity)

    def _measure(
        self, images: ImageSet, done_before: int, observers: list[FeatureObserver], num_blocks: int = 1
    ) -> Measurement | None:
        counts = [side.count for side in (self.images, self.reference) if isinstance(side, ImageSet)]
        total = None if None in counts else sum(count or 0 for count in counts)
        return measure(
            images,
            self.extractor,
            self.settings.batch_size,
            partial(_show, self._on_progress, done_before, total),
            num_blocks=num_blocks,
            observers=observers,
            cache=open_cache(self.settings.keep_features, images, self.extractor, self._gather),
            gather=self._gather,
        )

    def _measure_reference(self, scored: Measurement | None) -> Measurement | None:
        if not isinstance(self.reference, ImageSet):
            return self.reference
        if scored is None:  # not the main rank
            return self._measure(self.reference, 0, [])
        search = NearestSearch(scored.statistics, self._indices) if self._wants_neighbors() else None
        measured = self._measure(self.reference, scored.statistics.n or 0, [search] if search else [])
        self._neighbors = search.neighbors() if search else None
        return measured

    def _wants_neighbors(self) -> bool:
        can_show = isinstance(self.reference, ImageSet) and self.reference.identity and self.images.identity
        return self.settings.nearest is not None or (self.settings.report is not None and bool(can_show))

    def _compare(self, scored: Measurement, reference: Measurement) -> Score:
        a, b = scored.statistics, reference.statistics
        target = FrechetTarget(b)
        frechet = target.distance(a)
        enough = min(len(a.features), len(b.features)) >= LEAST_FOR_KERNEL
        classes = self._classes.estimates() if self._classes else {}
        remarks = dict.fromkeys([*scored.remarks, *reference.remarks, *remarks_on(scored, reference, frechet)])
        return Score(
            metric=self.extractor.metric,
            kernel_metric=self.extractor.kernel_metric,
            frechet=frechet,
            spread=distance_interval(frechet.value, a, target.quick_distance),
            kernel=kernel_distance(a.features, b.features, self.settings.seed) if enough else None,
            others=classes | {name: value for metric in METRICS for name, value in metric(a, b).items()},
            neighbors=self._neighbors,
            images=scored,
            reference=reference,
            remarks=tuple(remarks),
        )

    def _write_files(self, result: Score) -> None:
        """Write the sheet of neighbors and the report."""
        pairs = None
        if self._neighbors is not None and isinstance(self.reference, ImageSet):
            pairs = neighbor_sheet(self.images, self.reference, self._neighbors)
        if self.settings.nearest is not None and pairs is not None:
            write_atomic(self.settings.nearest, png_bytes(pairs))
        if self.settings.report is not None:
            samples = self._first.sheet() if self._first else None
            write_report(self.settings, result, self.images, samples, pairs)


def open_cache(
    folder: Path | None, images: ImageSet, extractor: Extractor, gather: FeatureGather
) -> FeatureCache | None:
    """Return the feature cache of a set in a folder, None without a folder."""
    return FeatureCache(folder, images, extractor, gather.world.is_main) if folder else None


def _show(on_progress: OnProgress, done_before: int, total: int | None, done: int, _: int | None) -> None:
    on_progress(done_before + done, total)


def saved_reference(
    path: Path,
    settings: ScoreSettings,
    extractor: Extractor,
    gather: FeatureGather,
    on_progress: OnProgress = lambda done, total: None,
) -> Measurement:
    """Return the statistics of a reference, measured once and saved in a file; all ranks call this.

    The file is used as long as the reference has the same images, and is measured again otherwise.

    Args:
        path: the file.
        settings: with the reference; and with `batch_size` and `keep_features` for measuring it.
        extractor: the feature network.
        gather: connects the ranks.
        on_progress: called with the number of images done and the total.

    Raises:
        UsageError: the reference is a stream, or does not exist.
        DataError: it is damaged, or was made by another extractor.
    """
    reference = open_reference(settings.reference)
    check_fit(reference, extractor, allow_small_n=True)
    if isinstance(reference, Measurement):
        return reference
    if reference is None or not reference.identity:
        raise UsageError(f"--ref {settings.reference}: a stream can be read only once; pass a file or folder")
    world = gather.world
    if not world.broadcast(world.is_main and _is_current(path, reference, extractor)):
        logger.info(f"computing the statistics of {settings.reference}, once")
        cache = open_cache(settings.keep_features, reference, extractor, gather)
        measured = measure(reference, extractor, settings.batch_size, on_progress, cache=cache, gather=gather)
        if measured is not None:
            save_statistics(path, measured, reference.identity)
        world.broadcast(None)  # wait until it is written
    return load_statistics(path)


def _is_current(path: Path, images: ImageSet, extractor: Extractor) -> bool:
    """Return whether saved statistics are those of these images by this extractor."""
    try:
        return path.is_file() and read_identity(path) == (images.identity, extractor.provenance)
    except DataError:
        return False


def dataset_statistics(data: Path, extractor: str, on_progress: OnProgress) -> Path:
    """Return the file of a data set's statistics, which is computed if it does not exist or is of other images.

    Args:
        data: a prepared data set.
        extractor: name of the feature network; also part of the file's name.
        on_progress: called with the number of images done and the total.

    Raises:
        UsageError: there is no such extractor.
        HditError: its weights cannot be downloaded.
    """
    path = data / f"statistics-{extractor}.npz"
    opened = open_extractor(extractor, device=pick_device("auto"))
    gather = FeatureGather(ALONE, opened.num_features)
    make_mkl_reproducible()
    for remark in saved_reference(path, ScoreSettings(None, str(data)), opened, gather, on_progress).remarks:
        logger.info(remark)
    return path
