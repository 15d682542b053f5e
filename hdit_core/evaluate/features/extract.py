"""Pieces of a set become features: batches are read, resized and put through the network side by side.

On a CPU each worker runs the network on one thread: nothing waits for another at every layer, which is faster where the
cores are free and several times faster where they are not.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, tee

import numpy as np
import torch
from jaxtyping import UInt8

from hdit_core.data.image_sets.image_set import ImageSet, ReadImage
from hdit_core.evaluate.extractors.extractor import Extractor, full_precision
from hdit_core.evaluate.feature_batch import FeatureBatch, joined
from hdit_core.evaluate.features.cache import FeatureCache
from hdit_core.evaluate.metrics.statistics import image_digest

GPU_WORKERS = 8  # that read and resize; the GPU does their batches one after the other


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
    batches: Iterable[tuple[int, list[ReadImage]]], extractor: Extractor, pool: ThreadPoolExecutor, workers: int
) -> Iterator[tuple[int, FeatureBatch]]:
    """Work on a few batches ahead of the taker, and give them in order."""
    waiting: deque[tuple[int, Future[FeatureBatch]]] = deque()
    for whole, reads in batches:
        waiting.append((whole, pool.submit(_work, reads, extractor)))
        if len(waiting) >= 2 * workers:
            size, batch = waiting.popleft()
            yield size, batch.result()
    for size, batch in waiting:
        yield size, batch.result()


def _work(reads: list[ReadImage], extractor: Extractor) -> FeatureBatch:
    images = [_grey_once(read()) for read in reads]
    features = extractor.features([extractor.prepare(image_u8) for image_u8 in images])
    return FeatureBatch(
        features, [image_digest(image_u8) for image_u8 in images], [image_u8.shape for image_u8 in images]
    )


def _grey_once(image_u8: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C2"]:
    """Return a grey image with one channel, so that it is the same image however its file stores it."""
    grey = image_u8[..., :1]
    return grey if (image_u8 == grey).all() else image_u8


@dataclass(frozen=True)
class FeatureExtraction:
    """What turns a set's images into features.

    Attributes:
        images: the set.
        extractor: the feature network.
        batch_size: images at once, at most a piece.
        store: keeps the features of pieces.
        on_done: told after every batch of how many images it was; what the store has is taken for done before.
    """

    images: ImageSet
    extractor: Extractor
    batch_size: int
    store: FeatureCache | None
    on_done: Callable[[int], None]

    def chunks(self, wanted: Iterable[range]) -> Iterator[FeatureBatch]:
        """Yield the features of pieces, in order: those that the store has, and the others, which it keeps."""
        if self.store is None:
            yield from self._made(wanted)
            return
        wanted = list(wanted)
        made = self._made([piece for piece in wanted if not self.store.has(piece)])
        for piece in wanted:
            batch = self.store.get(piece) if self.store.has(piece) else None
            if batch is None:
                if self.store.has(piece):
                    self.on_done(-len(piece))  # it is damaged
                batch = next(self._made([piece]) if self.store.has(piece) else made, None)
                if batch is None:
                    return  # the set has shrunk, which whoever counts notices
                self.store.put(piece, batch)
            yield batch

    def _made(self, wanted: Iterable[range]) -> Iterator[FeatureBatch]:
        """Yield the features of pieces; batches are worked on side by side, a few ahead of the taker."""
        parts: list[FeatureBatch] = []
        with full_precision(), _workers(self.extractor.device) as (pool, workers):
            for whole, batch in _ahead(_batches(self.images, wanted, self.batch_size), self.extractor, pool, workers):
                parts.append(batch)
                self.on_done(len(batch))
                if sum(map(len, parts)) == whole:
                    yield joined(parts)
                    parts = []
        if parts:
            yield joined(parts)


def _batches(images: ImageSet, pieces: Iterable[range], batch_size: int) -> Iterator[tuple[int, list[ReadImage]]]:
    """Yield what reads the images of pieces, batch by batch, each with the size of its piece."""
    pieces, again = tee(pieces)
    readers = images.readers() if images.count is None else images.open([place for piece in again for place in piece])
    for piece in pieces:
        for start in range(0, len(piece), batch_size):
            reads = list(islice(readers, min(batch_size, len(piece) - start)))
            if not reads:
                return
            yield len(piece), reads
