"""From a set of images to its statistics: batches are read, resized and put through the network side by side.

On a CPU each worker runs the network on one thread: nothing waits for another at every layer, which is faster where the
cores are free and several times faster where they are not.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8

from hdit_core.errors import DataError
from hdit_core.evaluate.extractor import Extractor, full_precision
from hdit_core.evaluate.featurestore import FeatureBatch, FeatureStore
from hdit_core.evaluate.imageset import ImageSet, Read
from hdit_core.evaluate.statistics import Accumulator, Statistics, image_digest

GPU_WORKERS = 8  # that read and resize; the GPU does their batches one after the other

OnProgress = Callable[[int, int | None], None]


@runtime_checkable
class Watcher(Protocol):
    """Somebody who looks at a set's features as they pass."""

    def see(self, batch: FeatureBatch, start: int) -> None:
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
    watchers: Sequence[Watcher] = (),
    store: FeatureStore | None = None,
) -> Measurement:
    """Return the statistics of a set; they do not depend on the batch size or on the order of the images.

    Args:
        images: the set.
        extractor: the feature network.
        batch_size: images at once; default what suits the extractor.
        on_progress: called with how many images are done, of how many.
        num_blocks: into how many parts the set is divided, for the spread of a score.
        watchers: shown every batch once, in order.
        store: keeps the features, and gives those back that a killed run has left in it.

    Raises:
        DataError: an image is broken, or there are fewer than two.
        NumericalError: a feature is not finite.
    """
    accumulator = Accumulator(extractor.num_features, num_blocks=num_blocks)
    shapes: Counter[tuple[int, ...]] = Counter()
    for batch in _batches(images, extractor, batch_size or extractor.batch_size, store):
        for watcher in watchers:
            watcher.see(batch, accumulator.n)
        accumulator.add(batch.features, batch.digests)
        shapes.update(batch.shapes)
        on_progress(accumulator.n, images.count)
    if images.count not in (None, accumulator.n):
        raise DataError(
            f"{images.source['path']}: {accumulator.n} of {images.count} images came; has it changed meanwhile? "
            "Score it again"
        )
    source = {**images.source, "size": _size(shapes), "num_grey": _num_grey(shapes), "rounding": "uint8"}
    return Measurement(accumulator.statistics(), extractor.passport, source, images.remarks + extractor.remarks)


def _batches(
    images: ImageSet, extractor: Extractor, batch_size: int, store: FeatureStore | None
) -> Iterator[FeatureBatch]:
    """Give what the store has, and then the rest, which it keeps."""
    done = 0
    for batch in store.kept() if store else ():
        done += len(batch.digests)
        yield batch
    if done == images.count:
        return
    with full_precision(), _workers(extractor.device) as (pool, workers):
        for batch in _ahead(images.readers(done), extractor, batch_size, pool, 2 * workers):
            if store:
                store.keep(batch)
            yield batch
    if store:
        store.flush()


@contextmanager
def _workers(device: torch.device) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Give a pool of threads and their number; on a CPU torch uses one core in each, and all as ever in this one."""
    cores = torch.get_num_threads()
    workers, cores_each = (cores, 1) if device.type == "cpu" else (GPU_WORKERS, cores)
    try:
        with ThreadPoolExecutor(workers, "features", torch.set_num_threads, (cores_each,)) as pool:
            yield pool, workers
    finally:
        torch.set_num_threads(cores)  # what a thread sets for itself is also the default of threads to come


def _ahead(
    readers: Iterable[Read], extractor: Extractor, batch_size: int, pool: ThreadPoolExecutor, most_waiting: int
) -> Iterator[FeatureBatch]:
    """Work on a few batches ahead of the taker, and give them in order."""
    remaining = iter(readers)
    waiting: deque[Future[FeatureBatch]] = deque()
    while reads := list(islice(remaining, batch_size)):
        waiting.append(pool.submit(_work, reads, extractor))
        if len(waiting) >= most_waiting:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _work(reads: list[Read], extractor: Extractor) -> FeatureBatch:
    images = [_grey_once(read()) for read in reads]
    features = extractor.features([extractor.prepare(image_u8) for image_u8 in images])
    return FeatureBatch(
        features, [image_digest(image_u8) for image_u8 in images], [image_u8.shape for image_u8 in images]
    )


def _grey_once(image_u8: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C2"]:
    """Return a grey image with one channel, so that it is the same image however its file stores it."""
    grey = image_u8[..., :1]
    return grey if (image_u8 == grey).all() else image_u8


def _size(shapes: Counter[tuple[int, ...]]) -> str:
    sizes = {f"{height}x{width}" for height, width, _ in shapes}
    return sizes.pop() if len(sizes) == 1 else "mixed"


def _num_grey(shapes: Counter[tuple[int, ...]]) -> int:
    return sum(count for (_, _, channels), count in shapes.items() if channels == 1)
