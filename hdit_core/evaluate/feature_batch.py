"""Batches of features, and chunks of 128 images: the unit of a rank's work, of a cache file, and of a sum.

A batch of the feature network or of a sampler never crosses the end of a chunk. So the features of an image are
bit-identical on any rank and for any part of the set that was cached before.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as numbers_from

import torch
from jaxtyping import Float32
from torch import Tensor

IMAGES_PER_CHUNK = 128


@dataclass(frozen=True)
class FeatureBatch:
    """The features of some images, with each image's digest and shape `(H, W, C)`."""

    features: Float32[Tensor, "B F"]
    digests: list[bytes]
    shapes: list[tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.digests)

    def first(self, count: int) -> "FeatureBatch":
        """Return the first images of the batch."""
        return FeatureBatch(self.features[:count], self.digests[:count], self.shapes[:count])


def joined(batches: Sequence[FeatureBatch]) -> FeatureBatch:
    """Return several batches as one."""
    return FeatureBatch(
        torch.cat([batch.features for batch in batches]),
        [digest for batch in batches for digest in batch.digests],
        [shape for batch in batches for shape in batch.shapes],
    )


def chunks_of(count: int | None) -> Iterator[range]:
    """Yield the indices of each chunk of a set; endlessly for a stream, whose length is unknown."""
    starts = numbers_from(0, IMAGES_PER_CHUNK) if count is None else range(0, count, IMAGES_PER_CHUNK)
    for start in starts:
        end = start + IMAGES_PER_CHUNK
        yield range(start, end if count is None else min(end, count))


def by_chunk(indices: Iterable[int]) -> Iterator[list[int]]:
    """Yield ascending indices in groups, each within one chunk."""
    group: list[int] = []
    for index in indices:
        if group and index // IMAGES_PER_CHUNK != group[0] // IMAGES_PER_CHUNK:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def whole_up_to(count: int) -> int:
    """Return `count` rounded up to whole chunks."""
    return -(-count // IMAGES_PER_CHUNK) * IMAGES_PER_CHUNK
