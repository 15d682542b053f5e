"""Turns the images of a set into features: batches are read, resized and put through the network in parallel.

On a CPU each worker runs the network on one thread. No layer then waits for the threads of another, which is faster on
free cores and several times faster on busy ones.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, tee
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Shaped

from hdit_core.data.image_sets.image_set import ImageSet, ReadImage
from hdit_core.evaluate.extractors.extractor import Extractor, full_precision
from hdit_core.evaluate.feature_batch import FeatureBatch, joined
from hdit_core.evaluate.features.cache import FeatureCache
from hdit_core.evaluate.metrics.statistics import image_digest

Batch = TypeVar("Batch")
Result = TypeVar("Result")

GPU_WORKERS = 8  # threads that read and resize; the GPU runs their batches one after another


@dataclass(frozen=True)
class FeatureExtraction:
    """Turns a set's images into features, chunk by chunk.

    Attributes:
        images: the set.
        extractor: the feature network.
        batch_size: images per batch, at most a chunk.
        cache: keeps the features of chunks.
        on_done: called after every batch with its number of images; cached images are counted by the caller.
    """

    images: ImageSet
    extractor: Extractor
    batch_size: int
    cache: FeatureCache | None
    on_done: Callable[[int], None]

    def chunks(self, wanted: Iterable[range]) -> Iterator[FeatureBatch]:
        """Yield the features of chunks, in order: cached ones, and new ones, which go into the cache."""
        if self.cache is None:
            yield from self._extract(wanted)
            return
        wanted = list(wanted)
        extracted = self._extract([indices for indices in wanted if not self.cache.has(indices)])
        for indices in wanted:
            cached = self.cache.has(indices)
            batch = self.cache.get(indices) if cached else None
            if batch is None:
                if cached:
                    self.on_done(-len(indices))  # the file is damaged
                batch = next(self._extract([indices]) if cached else extracted, None)
                if batch is None:
                    return  # the set has shrunk; the caller counts the images
                self.cache.put(indices, batch)
            yield batch

    def _extract(self, wanted: Iterable[range]) -> Iterator[FeatureBatch]:
        """Yield the features of chunks; several batches are computed in parallel, a few ahead of the consumer."""
        parts: list[FeatureBatch] = []
        with full_precision(), feature_workers(self.extractor.device) as (pool, workers):
            batches = _batches(self.images, wanted, self.batch_size)
            for chunk_size, batch in prefetched(partial(_features_of, self.extractor), batches, pool, workers):
                parts.append(batch)
                self.on_done(len(batch))
                if sum(map(len, parts)) == chunk_size:
                    yield joined(parts)
                    parts = []
        if parts:
            yield joined(parts)


@contextmanager
def feature_workers(device: torch.device) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Yield a thread pool and its size; on a CPU torch uses one core in each of its threads."""
    cores = torch.get_num_threads()
    workers, cores_each = (cores, 1) if device.type == "cpu" else (GPU_WORKERS, cores)
    try:
        with ThreadPoolExecutor(workers, "features", torch.set_num_threads, (cores_each,)) as pool:
            yield pool, workers
    finally:
        torch.set_num_threads(cores)  # the setting of a thread is also the default of threads to come


def _batches(images: ImageSet, chunks: Iterable[range], batch_size: int) -> Iterator[tuple[int, list[ReadImage]]]:
    """Yield functions that read the images of chunks, batch by batch, each with the size of its chunk."""
    chunks, again = tee(chunks)
    readers = images.readers() if images.count is None else images.open([index for chunk in again for index in chunk])
    for chunk in chunks:
        for start in range(0, len(chunk), batch_size):
            reads = list(islice(readers, min(batch_size, len(chunk) - start)))
            if not reads:
                return
            yield len(chunk), reads


def prefetched(
    function: Callable[[Batch], Result], batches: Iterable[Batch], pool: ThreadPoolExecutor, workers: int
) -> Iterator[Result]:
    """Yield the results of a function for batches in order, while the pool computes a few batches ahead."""
    pending: deque[Future[Result]] = deque()
    for batch in batches:
        pending.append(pool.submit(function, batch))
        while pending and (len(pending) >= 2 * workers or pending[0].done()):  # those that are done count at once
            yield pending.popleft().result()
    for future in pending:
        yield future.result()


def _features_of(extractor: Extractor, batch: tuple[int, list[ReadImage]]) -> tuple[int, FeatureBatch]:
    chunk_size, reads = batch
    images = [as_grey(read()) for read in reads]
    features = extractor.features([extractor.prepare(image_u8) for image_u8 in images])
    digests = [image_digest(image_u8) for image_u8 in images]
    return chunk_size, FeatureBatch(features, digests, [image_u8.shape for image_u8 in images])


def as_grey(image: Shaped[np.ndarray, "H W C"]) -> Shaped[np.ndarray, "H W C2"]:
    """Return the image with one channel if it is grey, so that it is the same image however its file stores it."""
    grey = image[..., :1]
    return grey if image.shape[2] == 3 and (image == grey).all() else image
