"""From a set of images to its statistics: read and resized in threads, while the network is at work."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from hdit_core.evaluate.extractor import Extractor
from hdit_core.evaluate.pictures import ImageSet, Read
from hdit_core.evaluate.statistics import Accumulator, Statistics, image_digest

THREADS = 4
AHEAD = 64  # images that are read before the network asks for them

OnProgress = Callable[[int, int], None]


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


@dataclass(frozen=True)
class _Prepared:
    levels: Float32[np.ndarray, "S S 3"]
    digest: bytes
    shape: tuple[int, int, int]


def measure(
    images: ImageSet,
    extractor: Extractor,
    batch_size: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Measurement:
    """Return the statistics of a set; they do not depend on the batch size or on the order of the images.

    Args:
        images: the set.
        extractor: the feature network.
        batch_size: images at once; default what suits the extractor.
        on_progress: called with how many images are done, of how many.

    Raises:
        DataError: an image is broken, or there are fewer than two.
        NumericalError: a feature is not finite.
    """
    accumulator = Accumulator(extractor.num_features)
    shapes: Counter[tuple[int, int, int]] = Counter()
    prepared = _prepare_ahead(images.readers, extractor)
    while batch := list(islice(prepared, batch_size or extractor.batch_size)):
        features = extractor.features([image.levels for image in batch])
        accumulator.add(features, [image.digest for image in batch])
        shapes.update(image.shape for image in batch)
        on_progress(accumulator.n, images.count)
    source = {**images.source, "size": _size(shapes), "num_grey": _num_grey(shapes)}
    return Measurement(accumulator.statistics(), extractor.passport, source, images.remarks + extractor.remarks)


def _prepare_ahead(readers: Iterable[Read], extractor: Extractor) -> Iterator[_Prepared]:
    """Read and resize images in threads, AHEAD of the taker, in order; Pillow leaves the interpreter free meanwhile."""
    waiting: deque[Future[_Prepared]] = deque()
    with ThreadPoolExecutor(THREADS, "prepare") as pool:
        for read in readers:
            waiting.append(pool.submit(_prepare, read, extractor))
            if len(waiting) >= AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _prepare(read: Read, extractor: Extractor) -> _Prepared:
    image_u8 = _grey_once(read())
    return _Prepared(extractor.prepare(image_u8), image_digest(image_u8), image_u8.shape)


def _grey_once(image_u8: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C2"]:
    """Return a grey image with one channel, so that it is the same image however its file stores it."""
    grey = image_u8[..., :1]
    return grey if (image_u8 == grey).all() else image_u8


def _size(shapes: Counter[tuple[int, int, int]]) -> str:
    sizes = {f"{height}x{width}" for height, width, _ in shapes}
    return sizes.pop() if len(sizes) == 1 else "mixed"


def _num_grey(shapes: Counter[tuple[int, int, int]]) -> int:
    return sum(count for (_, _, channels), count in shapes.items() if channels == 1)
