"""The whole way from two sets of images to a score, with everything that can go wrong asked for first."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from hdit_core.data.format.manifest import read_manifest
from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.data.image_sets.open_images import STDIN
from hdit_core.devices import make_mkl_reproducible, pick_device
from hdit_core.distributed import World
from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.extractors.extractor import Extractor, Say, open_extractor
from hdit_core.evaluate.features.cache import FeatureCache
from hdit_core.evaluate.features.gather import FeatureGather, translating_rank_errors
from hdit_core.evaluate.features.measure import FeatureObserver, Measurement, OnProgress, assist, measure
from hdit_core.evaluate.inputs import LEAST_FOR_KERNEL, check_enough, check_fit, open_reference, open_scored, remarks_on
from hdit_core.evaluate.metrics.frechet_distance import FrechetTarget
from hdit_core.evaluate.metrics.inception_score import InceptionScore
from hdit_core.evaluate.metrics.jackknife import NUM_BLOCKS, distance_interval
from hdit_core.evaluate.metrics.kernel_distance import kernel_distance
from hdit_core.evaluate.metrics.nearest_neighbours import DigestIndex, NearestSearch, Neighbours
from hdit_core.evaluate.metrics.precision_recall import precision_recall
from hdit_core.evaluate.report.html_report import write_report
from hdit_core.evaluate.report.result import SavedStatistics, Score
from hdit_core.evaluate.report.sheets import neighbour_sheet
from hdit_core.evaluate.settings import ScoreSettings, check_settings
from hdit_core.evaluate.statistics_file import load_statistics, save_statistics
from hdit_core.files import write_atomic
from hdit_core.images import png_bytes

ALONE = World()


@translating_rank_errors("another rank")
def score(
    settings: ScoreSettings,
    on_progress: OnProgress = lambda done, total: None,
    say: Say = lambda _: None,
    world: World = ALONE,
) -> Score | SavedStatistics | None:
    """Score images against a reference, or without one save their statistics.

    Args:
        settings: what and how.
        on_progress: called with how many images of both sets are done, of how many.
        say: told of what takes long, and of work of a killed run that is taken up.
        world: the ranks that share the work; all of them call this, with the same settings.

    Returns:
        The result, the same bit for bit for any number of ranks; None on all ranks but the main one.

    Raises:
        UsageError: the settings contradict each other, or a set is too small.
        DataError: a set is empty, damaged or not of the extractor's kind.
        HditError: as `open_extractor`; or another rank failed.
    """
    check_settings(settings)
    make_mkl_reproducible()
    if world.size > 1 and STDIN in (settings.images, settings.reference):
        raise UsageError(f"-: a stream goes to one process, found {world.size} ranks; start one, or give a file")
    device = pick_device(settings.device) if world is ALONE else world.device
    reference = open_reference(settings.reference)
    images, default_extractor = open_scored(settings, reference, device, say)
    name = settings.extractor or default_extractor
    extractor = open_on_all(lambda: open_extractor(name, settings.weights, device, say, settings.mode), world)
    for side in (images, reference):
        check_fit(side, extractor, settings.allow_small_n)
    scoring = _Scoring(
        settings, images, reference, extractor, on_progress, say, FeatureGather(world, extractor.num_features)
    )
    if world.is_main:
        return scoring.run()
    scoring.assist()
    return None


def open_on_all(open_it: Callable[[], Extractor], world: World) -> Extractor:
    """Open an extractor on every rank, on the main one first: it may have to download the weights for all."""
    return world.on_main_rank(open_it) or open_it()


class _Scoring:
    """One score in the making."""

    def __init__(
        self,
        settings: ScoreSettings,
        images: ImageSet,
        reference: ImageSet | Measurement | None,
        extractor: Extractor,
        on_progress: OnProgress,
        say: Say,
        gather: FeatureGather,
    ) -> None:
        self.settings, self.images, self.reference, self.extractor = settings, images, reference, extractor
        self._on_progress, self._say, self._relay = on_progress, say, gather
        self._classes = InceptionScore(extractor.class_logits) if extractor.class_logits else None
        self._places = DigestIndex()
        self._neighbours: Neighbours | None = None

    def assist(self) -> None:
        """Do this rank's share of both sides for the main rank."""
        for side in (self.images, self.reference):
            if isinstance(side, ImageSet):
                store = self._store(side)
                assist(side, self.extractor, self.settings.batch_size, store=store, gather=self._relay)

    def run(self) -> Score | SavedStatistics:
        """Measure both sides, compare them, and write what is asked for beside."""
        watchers: list[FeatureObserver] = [self._places, *([self._classes] if self._classes else [])]
        scored = self._measure(self.images, 0, watchers, 1 if self.reference is None else NUM_BLOCKS)
        n = scored.statistics.n
        check_enough(scored.source["path"], n, self.extractor, self.settings.allow_small_n)  # a stream's is known now
        if self.settings.save_stats is not None:
            save_statistics(self.settings.save_stats, scored)
        if self.reference is None:
            assert self.settings.save_stats is not None  # check_settings saw to it
            return SavedStatistics(self.settings.save_stats, scored)
        result = self._compare(scored, self._measure_reference(scored))
        self._write_pictures(result)
        return result

    def _store(self, images: ImageSet) -> FeatureCache | None:
        folder, leads = self.settings.keep_features, self._relay.world.is_main
        return FeatureCache(folder, images, self.extractor, self._say, leads) if folder else None

    def _measure(
        self, images: ImageSet, done_before: int, watchers: list[FeatureObserver], num_blocks: int = 1
    ) -> Measurement:
        counts = [side.count for side in (self.images, self.reference) if isinstance(side, ImageSet)]
        total = None if None in counts else sum(count or 0 for count in counts)
        return measure(
            images,
            self.extractor,
            self.settings.batch_size,
            partial(_show, self._on_progress, done_before, total),
            num_blocks=num_blocks,
            watchers=watchers,
            store=self._store(images),
            gather=self._relay,
        )

    def _measure_reference(self, scored: Measurement) -> Measurement:
        if not isinstance(self.reference, ImageSet):
            assert self.reference is not None
            return self.reference
        search = NearestSearch(scored.statistics, self._places) if self._wants_neighbours() else None
        measured = self._measure(self.reference, scored.statistics.n or 0, [search] if search else [])
        self._neighbours = search.neighbours() if search else None
        return measured

    def _wants_neighbours(self) -> bool:
        can_show = isinstance(self.reference, ImageSet) and self.reference.identity and self.images.identity
        return self.settings.nearest is not None or (self.settings.report is not None and bool(can_show))

    def _compare(self, scored: Measurement, reference: Measurement) -> Score:
        a, b = scored.statistics, reference.statistics
        target = FrechetTarget(b)
        frechet = target.distance(a)
        enough = min(len(a.features), len(b.features)) >= LEAST_FOR_KERNEL
        remarks = dict.fromkeys([*scored.remarks, *reference.remarks, *remarks_on(scored, reference, frechet)])
        return Score(
            metric=self.extractor.metric,
            kernel_metric=self.extractor.kernel_metric,
            frechet=frechet,
            spread=distance_interval(frechet.value, a, target.quick_distance),
            kernel=kernel_distance(a.features, b.features, self.settings.seed) if enough else None,
            manifold=precision_recall(a, b),
            class_score=self._classes.estimate() if self._classes else None,
            neighbours=self._neighbours,
            images=scored,
            reference=reference,
            remarks=tuple(remarks),
        )

    def _write_pictures(self, result: Score) -> None:
        found, reference = self._neighbours, self.reference
        pairs = neighbour_sheet(self.images, reference, found) if found and isinstance(reference, ImageSet) else None
        if self.settings.nearest is not None and pairs is not None:
            write_atomic(self.settings.nearest, png_bytes(pairs))
        if self.settings.report is not None:
            write_report(self.settings.report, result, self.images, pairs, self.settings.figures)


def _show(on_progress: OnProgress, done_before: int, total: int | None, done: int, _: int | None) -> None:
    on_progress(done_before + done, total)


def dataset_statistics(data: Path, extractor: str, on_progress: OnProgress, say: Say) -> Path:
    """Return the file of a data set's statistics, made now if it is not there or is of other images.

    Args:
        data: a prepared data set.
        extractor: name of the feature network; also part of the file's name.
        on_progress: told how many images are done, of how many.
        say: told of what takes long.

    Raises:
        UsageError: there is no such extractor.
        HditError: its weights cannot be had.
    """
    path = data / f"statistics-{extractor}.npz"
    if path.exists() and _is_of(path, data):
        return path
    settings = ScoreSettings(str(data), None, extractor=extractor, save_stats=path, allow_small_n=True)
    result = score(settings, on_progress, say)
    for remark in result.remarks if result else ():
        say(remark)
    return path


def _is_of(path: Path, data: Path) -> bool:
    try:
        return bool(load_statistics(path).source.get("root") == read_manifest(data).root)
    except DataError:
        return False
