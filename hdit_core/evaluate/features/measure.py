"""From a set of images to its statistics, by one process or by several ranks that share the work."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.distributed import World
from hdit_core.errors import DataError
from hdit_core.evaluate.extractors.extractor import Extractor
from hdit_core.evaluate.feature_batch import FeatureBatch, chunks_of
from hdit_core.evaluate.features.cache import FeatureCache
from hdit_core.evaluate.features.extract import FeatureExtraction
from hdit_core.evaluate.features.gather import FeatureGather
from hdit_core.evaluate.metrics.statistics import Accumulator, Statistics

OnProgress = Callable[[int, int | None], None]


@runtime_checkable
class FeatureObserver(Protocol):
    """Receives the features of a set, chunk by chunk."""

    def observe(self, batch: FeatureBatch, start: int) -> None:
        """Receive the features of the images with the indices `start`, `start + 1`, ..."""


@dataclass(frozen=True)
class Measurement:
    """A set's statistics with their provenance.

    Attributes:
        statistics: of the features.
        extractor: the extractor's provenance; of other programs' saved statistics only what is known, maybe nothing.
        source: where the images came from, their size and how many are grey.
        remarks: remarks for readers of a score.
    """

    statistics: Statistics
    extractor: dict[str, Any]
    source: dict[str, Any]
    remarks: tuple[str, ...] = ()


def measure(
    images: ImageSet,
    extractor: Extractor,
    batch_size: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
    *,
    num_blocks: int = 1,
    observers: Sequence[FeatureObserver] = (),
    cache: FeatureCache | None = None,
    gather: FeatureGather | None = None,
) -> Measurement | None:
    """Return the statistics of a set, on the main rank only; independent of batch size, order and number of ranks.

    Args:
        images, extractor, batch_size: the set, the feature network, and images per batch (default: the network's own).
        on_progress: called with the number of images done and the total; first with those in the cache.
        num_blocks: number of parts of the set whose moments are kept, for the interval of a score.
        observers: receive every chunk once, in order, on the main rank.
        cache: keeps the features, and returns those that an interrupted evaluation left in it.
        gather: given if several ranks share the work; all of them call this.

    Raises:
        DataError, NumericalError: an image is broken, or there are fewer than two; or a feature is not finite.
        HditError, MeasurementStopped: another rank failed; or a rank was asked to stop.
    """
    gather = gather or FeatureGather(World(), extractor.num_features)
    accumulator = Accumulator(extractor.num_features, num_blocks=num_blocks)
    shapes: Counter[tuple[int, ...]] = Counter()
    counter = _Counter(on_progress, images.count, cache)
    extraction = FeatureExtraction(images, extractor, batch_size or extractor.batch_size, cache, counter.add)
    for chunk in _chunks_in_order(extraction, gather, counter):
        for observer in observers:
            observer.observe(chunk, accumulator.n)
        accumulator.add(chunk.features, chunk.digests)
        shapes.update(chunk.shapes)
    if not gather.world.is_main:
        return None
    _check_count(images, accumulator.n, images.count)
    source = {**images.source, "size": _size(shapes), "num_grey": _num_grey(shapes), "rounding": "uint8"}
    return Measurement(accumulator.statistics(), extractor.provenance, source, images.remarks + extractor.remarks)


def _chunks_in_order(
    extraction: FeatureExtraction, gather: FeatureGather, counter: "_Counter"
) -> Iterator[FeatureBatch]:
    """Yield all chunks of a set on the main rank, whichever rank made them; none on the others."""
    world, images = gather.world, extraction.images
    if world.size == 1:
        yield from extraction.chunks(chunks_of(images.count))
        return
    ranges = list(chunks_of(images.count))
    own = _all_chunks(extraction, ranges[world.rank :: world.size])
    for start in range(0, len(ranges), world.size):
        chunks = gather.gather_round(lambda: next(own, None))
        for rank, (indices, chunk) in enumerate(zip(ranges[start:], chunks, strict=False)):
            if rank and not (extraction.cache and extraction.cache.has(indices)):
                counter.add(len(chunk))
            yield chunk


def _all_chunks(extraction: FeatureExtraction, ranges: Sequence[range]) -> Iterator[FeatureBatch]:
    """Yield the chunks of these ranges; fail if an image is missing, since the other ranks would wait for it."""
    num_images = 0
    for chunk in extraction.chunks(ranges):
        num_images += len(chunk)
        yield chunk
    _check_count(extraction.images, num_images, sum(map(len, ranges)))


class _Counter:
    """Counts the images that are done and reports progress; cached images count from the beginning."""

    def __init__(self, on_progress: OnProgress, total: int | None, cache: FeatureCache | None) -> None:
        self._on_progress, self._total, self._done = on_progress, total, 0
        if cached := sum(len(chunk) for chunk in chunks_of(total) if cache.has(chunk)) if cache else 0:
            self.add(cached)

    def add(self, count: int) -> None:
        self._done += count
        self._on_progress(self._done, self._total)


def _check_count(images: ImageSet, found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise DataError(
            f"{images.source['path']}: only {found} of {expected} images were read; has it changed? Score it again"
        )


def _size(shapes: Counter[tuple[int, ...]]) -> str:
    sizes = {f"{height}x{width}" for height, width, _ in shapes}
    return sizes.pop() if len(sizes) == 1 else "mixed"


def _num_grey(shapes: Counter[tuple[int, ...]]) -> int:
    return sum(count for (_, _, channels), count in shapes.items() if channels == 1)
