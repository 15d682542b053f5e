"""The whole way from two sets of images to a score, with everything that can go wrong asked for first."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from hdit_core.checkpoint import load_denoiser
from hdit_core.devices import pick_device
from hdit_core.errors import UsageError
from hdit_core.evaluate.classscore import ClassScore
from hdit_core.evaluate.distance import FrechetTarget, kernel_distance
from hdit_core.evaluate.extractor import Extractor, Mode, Say, open_extractor
from hdit_core.evaluate.featurestore import FeatureStore
from hdit_core.evaluate.fit import LEAST_FOR_KERNEL, check_enough, check_same_extractor, remarks_on
from hdit_core.evaluate.generated import Labels, generated_images
from hdit_core.evaluate.htmlreport import write_report
from hdit_core.evaluate.imageset import ImageSet
from hdit_core.evaluate.interval import NUM_BLOCKS, spread
from hdit_core.evaluate.manifold import manifold
from hdit_core.evaluate.measure import Measurement, OnProgress, Watcher, measure
from hdit_core.evaluate.nearest import NearestSearch, Neighbours, Places
from hdit_core.evaluate.pictures import STDIN, open_images
from hdit_core.evaluate.reference import check_statistics_path, holds_statistics, load_statistics, save_statistics
from hdit_core.evaluate.report import SavedStatistics, Score
from hdit_core.evaluate.sheet import neighbour_sheet
from hdit_core.files import write_whole
from hdit_core.images import png_bytes

DEFAULT_EXTRACTOR = "inception"


@dataclass(frozen=True)
class ScoreSettings:
    """What is scored, against what, and how.

    Attributes:
        images: a folder, an archive, an npz, a data set, or "-"; None where a checkpoint is scored.
        reference: the same, or saved statistics (.npz); None to make statistics of the images alone.
        checkpoint: a run or checkpoint whose images are drawn and scored, with its averaged weights.
        extractor: name of the feature network; default the checkpoint's recipe's, otherwise Inception.
        weights: file of its weights.
        mode: how images are resized for Inception.
        n: how many of the images; default all, and of a checkpoint's as many as its recipe says.
        labels: classes of a checkpoint's images.
        batch_size: images at once in the feature network; default what suits it.
        device: name of the device.
        seed: of generated images, of the choice of n images, and of the kernel distance's subsets.
        allow_small_n: score sets with no more images than there are features.
        save_stats: where the statistics of the images are kept, as a reference for later scores.
        keep_features: folder in which features are kept as they come, so that a killed run goes on.
        nearest: where a sheet of the images beside their nearest in the reference is written, a PNG.
        report: where the result is written as a page for people, HTML.
    """

    images: str | None
    reference: str | None
    checkpoint: str | None = None
    extractor: str | None = None
    weights: Path | None = None
    mode: Mode = "clean"
    n: int | None = None
    labels: Labels = "balanced"
    batch_size: int | None = None
    device: str = "auto"
    seed: int = 0
    allow_small_n: bool = False
    save_stats: Path | None = None
    keep_features: Path | None = None
    nearest: Path | None = None
    report: Path | None = None


def score(
    settings: ScoreSettings, on_progress: OnProgress = lambda done, total: None, say: Say = lambda _: None
) -> Score | SavedStatistics:
    """Score images against a reference, or without one save their statistics.

    Args:
        settings: what and how.
        on_progress: called with how many images of both sets are done, of how many.
        say: told of what takes long, and of work of a killed run that is taken up.

    Raises:
        UsageError: the settings contradict each other, or a set is too small.
        DataError: a set is empty, damaged or not of the extractor's kind.
        HditError: as `open_extractor`.
    """
    _check(settings)
    device = pick_device(settings.device)
    reference = _open_reference(settings.reference)
    images, default_extractor = _open_images(settings, reference, device)
    extractor = open_extractor(settings.extractor or default_extractor, settings.weights, device, say, settings.mode)
    for side in (images, reference):
        _check_fit(side, extractor, settings.allow_small_n)
    return _Scoring(settings, images, reference, extractor, on_progress, say).run()


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
    ) -> None:
        self.settings, self.images, self.reference, self.extractor = settings, images, reference, extractor
        self._on_progress, self._say = on_progress, say
        self._classes = ClassScore(extractor.class_logits) if extractor.class_logits else None
        self._places = Places()
        self._neighbours: Neighbours | None = None

    def run(self) -> Score | SavedStatistics:
        """Measure both sides, compare them, and write what is asked for beside."""
        watchers: list[Watcher] = [self._places, *([self._classes] if self._classes else [])]
        scored = self._measure(self.images, 0, watchers, 1 if self.reference is None else NUM_BLOCKS)
        n = scored.statistics.n
        check_enough(scored.source["path"], n, self.extractor, self.settings.allow_small_n)  # a stream's is known now
        if self.settings.save_stats is not None:
            save_statistics(self.settings.save_stats, scored)
        if self.reference is None:
            assert self.settings.save_stats is not None  # _check saw to it
            return SavedStatistics(self.settings.save_stats, scored)
        result = self._compare(scored, self._measure_reference(scored))
        self._write_pictures(result)
        return result

    def _measure(self, images: ImageSet, done_before: int, watchers: list[Watcher], num_blocks: int = 1) -> Measurement:
        counts = [side.count for side in (self.images, self.reference) if isinstance(side, ImageSet)]
        total = None if None in counts else sum(count or 0 for count in counts)
        show = partial(_show, self._on_progress, done_before, total)
        folder = self.settings.keep_features
        store = FeatureStore(folder, images, self.extractor, self._say) if folder else None
        return measure(
            images,
            self.extractor,
            self.settings.batch_size,
            show,
            num_blocks=num_blocks,
            watchers=watchers,
            store=store,
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
            spread=spread(frechet.value, a, target.quick_distance),
            kernel=kernel_distance(a.features, b.features, self.settings.seed) if enough else None,
            manifold=manifold(a, b),
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
            write_whole(self.settings.nearest, png_bytes(pairs))
        if self.settings.report is not None:
            write_report(self.settings.report, result, self.images, pairs)


def _show(on_progress: OnProgress, done_before: int, total: int | None, done: int, _: int | None) -> None:
    on_progress(done_before + done, total)


def _check(settings: ScoreSettings) -> None:
    """Refuse settings that contradict each other, before an hour is spent on them."""
    if (settings.images is None) == (settings.checkpoint is None):
        raise UsageError("expected either IMAGES (a folder, an archive or a data set) or --ckpt RUN")
    if settings.images == settings.reference == STDIN:
        raise UsageError("-: one stream cannot be both the images and the reference")
    if settings.reference is None and settings.save_stats is None:
        raise UsageError("--ref is missing: a data set, a folder, or statistics made with hdit eval-fid stats")
    if settings.checkpoint is None and settings.labels != "balanced":
        raise UsageError(f"--labels {settings.labels}: goes with --ckpt; images that are there have their classes")
    if settings.save_stats is not None:
        check_statistics_path(settings.save_stats)
    _check_path("--nearest", settings.nearest, ".png")
    _check_path("--report", settings.report, ".html")


def _check_path(option: str, path: Path | None, ending: str) -> None:
    if path is not None and path.suffix != ending:
        raise UsageError(f"{option} {path}: expected a name that ends in {ending}")
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}")


def _open_images(
    settings: ScoreSettings, reference: ImageSet | Measurement | None, device: torch.device
) -> tuple[ImageSet, str]:
    """Return the images to score, and the extractor to take where none is named."""
    if settings.nearest is not None and not (isinstance(reference, ImageSet) and reference.identity):
        raise UsageError(f"--nearest {settings.nearest}: needs images as --ref, not statistics or a stream")
    if settings.checkpoint is None:
        assert settings.images is not None  # _check saw to it
        images = open_images(settings.images, settings.n, settings.seed)
        if settings.nearest is not None and not images.identity:
            raise UsageError(f"--nearest {settings.nearest}: a stream can be read once; give a file or folder")
        return images, DEFAULT_EXTRACTOR
    denoiser = load_denoiser(settings.checkpoint, device=device)
    wanted = denoiser.recipe.evaluate
    n = settings.n or wanted.num_images
    counts = reference.source.get("class_counts") if reference else None
    return (
        generated_images(denoiser, settings.checkpoint, n, settings.seed, settings.labels, counts),
        wanted.extractor,
    )


def _open_reference(location: str | None) -> ImageSet | Measurement | None:
    if location is None:
        return None
    path = Path(location)
    if path.suffix == ".npz" and not path.exists():
        raise UsageError(f"{path}: no such file; expected statistics, as hdit eval-fid stats makes them, or images")
    return load_statistics(path) if path.suffix == ".npz" and holds_statistics(path) else open_images(location)


def _check_fit(side: ImageSet | Measurement | None, extractor: Extractor, allow_small_n: bool) -> None:
    """Refuse statistics of another extractor, and sets that are known to be too small for this one."""
    if side is None:
        return
    if isinstance(side, Measurement):
        check_same_extractor(side, extractor)
    count = side.statistics.n if isinstance(side, Measurement) else side.count
    check_enough(side.source["path"], count, extractor, allow_small_n)
