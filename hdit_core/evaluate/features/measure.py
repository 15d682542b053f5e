"""From a set of images to its statistics, by one process or by several ranks that share the work."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
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
    """Somebody who looks at a set's features as they pass."""

    def observe(self, batch: FeatureBatch, start: int) -> None:
        """Look at the features of the images at the places `start`, `start + 1`, ..."""


@dataclass(frozen=True)
class Measurement:
    """A set's statistics with the passport of their making.

    Attributes:
        statistics: of the features.
        extractor: the extractor's passport; empty where saved statistics of another program do not say.
        source: where the images came from, their size and how many are grey.
        remarks: what a reader of a score has to know.
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
    watchers: Sequence[FeatureObserver] = (),
    store: FeatureCache | None = None,
    gather: FeatureGather | None = None,
) -> Measurement:
    """Return the statistics of a set; they do not depend on the batch size, the order or the number of ranks.

    Args:
        images: the set.
        extractor: the feature network.
        batch_size: images at once, at most a piece; default what suits the extractor.
        on_progress: called with how many images are done, of how many; first with those that the store has.
        num_blocks: into how many parts the set is divided, for the spread of a score.
        watchers: shown every piece once, in order.
        store: keeps the features, and gives those back that a killed run has left in it.
        gather: where several ranks share the work, brings theirs; each of them calls `assist`.

    Raises:
        DataError: an image is broken, or there are fewer than two.
        NumericalError: a feature is not finite.
        HditError: another rank failed.
    """
    accumulator = Accumulator(extractor.num_features, num_blocks=num_blocks)
    shapes: Counter[tuple[int, ...]] = Counter()
    tally = _Tally(on_progress, images.count, store)
    work = FeatureExtraction(images, extractor, batch_size or extractor.batch_size, store, tally.add)
    for piece in _in_order(work, gather, tally):
        for watcher in watchers:
            watcher.observe(piece, accumulator.n)
        accumulator.add(piece.features, piece.digests)
        shapes.update(piece.shapes)
    _check_count(images, accumulator.n, images.count)
    source = {**images.source, "size": _size(shapes), "num_grey": _num_grey(shapes), "rounding": "uint8"}
    return Measurement(accumulator.statistics(), extractor.provenance, source, images.remarks + extractor.remarks)


def assist(
    images: ImageSet,
    extractor: Extractor,
    batch_size: int | None = None,
    *,
    store: FeatureCache | None = None,
    gather: FeatureGather,
) -> None:
    """Do this rank's share of a set, and send it to the main rank, which calls `measure`.

    Args:
        images, extractor, batch_size, store, relay: as `measure` has them.

    Raises:
        DataError: an image is broken.
        HditError: the main rank is gone.
    """
    work = FeatureExtraction(images, extractor, batch_size or extractor.batch_size, store, lambda count: None)
    gather.send_all(_whole_share(work, images, gather.world))


def _whole_share(work: FeatureExtraction, images: ImageSet, world: World) -> Iterator[FeatureBatch]:
    """Yield this rank's pieces, and make sure that none is missing, for which the main rank would wait."""
    expected, done = sum(map(len, _share(images, world))), 0
    for piece in work.chunks(_share(images, world)):
        done += len(piece)
        yield piece
    _check_count(images, done, expected)


def _share(images: ImageSet, world: World) -> Iterator[range]:
    """Yield the pieces of a rank: dealt out in turn, so that all ranks' are wanted about when they are ready."""
    return islice(chunks_of(images.count), world.rank, None, world.size)


def _in_order(work: FeatureExtraction, gather: FeatureGather | None, tally: "_Tally") -> Iterator[FeatureBatch]:
    """Yield all pieces of a set, of whichever rank they come."""
    if gather is None or gather.world.size == 1:
        yield from work.chunks(chunks_of(work.images.count))
        return
    own = work.chunks(_share(work.images, gather.world))
    for number, places in enumerate(chunks_of(work.images.count)):
        owner = number % gather.world.size
        piece = gather.receive(owner) if owner else next(own, None)
        if piece is None:
            return
        if owner and not (work.store and work.store.has(places)):
            tally.add(len(piece))
        yield piece
    gather.finish()


class _Tally:
    """Counts images, and tells how many are done; those that a store has are, from the beginning."""

    def __init__(self, on_progress: OnProgress, total: int | None, store: FeatureCache | None) -> None:
        self._on_progress, self._total, self._done = on_progress, total, 0
        if kept := sum(len(piece) for piece in chunks_of(total) if store.has(piece)) if store else 0:
            self.add(kept)

    def add(self, count: int) -> None:
        self._done += count
        self._on_progress(self._done, self._total)


def _check_count(images: ImageSet, found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise DataError(
            f"{images.source['path']}: {found} of {expected} images came; has it changed meanwhile? Score it again"
        )


def _size(shapes: Counter[tuple[int, ...]]) -> str:
    sizes = {f"{height}x{width}" for height, width, _ in shapes}
    return sizes.pop() if len(sizes) == 1 else "mixed"


def _num_grey(shapes: Counter[tuple[int, ...]]) -> int:
    return sum(count for (_, _, channels), count in shapes.items() if channels == 1)
