"""Image sheets of a score: the first images, and samples with their nearest neighbors in the reference."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import UInt8

from hdit_core.data.image_sets.image_set import ImageSet, ReadImage
from hdit_core.evaluate.metrics.nearest_neighbors import Neighbors
from hdit_core.images import sheet, thumbnail

THUMBNAIL_PX = 128
PAIRS = 8  # rows of the sheet of neighbors
SAMPLES = 36


class FirstImages:
    """Keeps thumbnails of the first images of a stream while it is read.

    Attributes:
        images: the same set, to be read in place of the original.
    """

    def __init__(self, images: ImageSet) -> None:
        self.images = replace(images, open=partial(self._open, images))
        self._thumbnails: dict[int, UInt8[np.ndarray, "S S 3"]] = {}

    def sheet(self) -> UInt8[np.ndarray, "H W 3"] | None:
        """Return a sheet of the first images, None if none has been read."""
        thumbnails = [self._thumbnails[index] for index in sorted(self._thumbnails)]
        return sheet(np.stack(thumbnails)) if thumbnails else None

    def _open(self, images: ImageSet, indices: Sequence[int]) -> Iterator[ReadImage]:
        for index, read in zip(indices, images.open(indices), strict=False):
            yield partial(self._read, index, read) if index < SAMPLES else read

    def _read(self, index: int, read: ReadImage) -> UInt8[np.ndarray, "H W C"]:
        image_u8 = read()
        self._thumbnails[index] = thumbnail(image_u8)
        return image_u8


def sample_sheet(images: ImageSet) -> UInt8[np.ndarray, "H W 3"]:
    """Return a sheet of the first images of a set.

    Raises:
        UsageError: the set is a stream.
    """
    count = SAMPLES if images.count is None else min(SAMPLES, images.count)
    return sheet(np.stack([thumbnail(image_u8) for image_u8 in images.read_many(range(count))]))


def neighbor_sheet(images: ImageSet, reference: ImageSet, neighbors: Neighbors) -> UInt8[np.ndarray, "H W 3"]:
    """Return rows of a sample and its nearest neighbors in the reference with their distances, nearest pair first.

    Raises:
        UsageError: one of the sets is a stream.
    """
    samples = neighbors.indices[:PAIRS].tolist()
    rows = neighbors.reference_indices[:PAIRS].tolist()
    wanted = [index for row in rows for index in row if index >= 0]
    thumbnails = dict(zip(wanted, map(thumbnail, reference.read_many(wanted)), strict=True))
    blank = np.full((THUMBNAIL_PX, THUMBNAIL_PX, 3), 255, np.uint8)
    cells, captions = [], []
    for image_u8, row, distances in zip(images.read_many(samples), rows, neighbors.distances.tolist(), strict=False):
        cells += [thumbnail(image_u8), *(thumbnails.get(index, blank) for index in row)]
        captions += ["sample", *(f"at {distance:.4g}" if np.isfinite(distance) else "" for distance in distances)]
    return sheet(np.stack(cells), captions, columns=1 + neighbors.reference_indices.shape[1])
