"""A set falls into pieces of 128 images: what one rank works on, what one file keeps, what is added up at once.

A batch of the feature network or of a sampler never crosses the end of a piece. So the features of an image are the
same, bit for bit, whoever computes them, and however much of the set was there before.
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
    """Yield the places of each piece of a set; for a stream, whose length is not known, without end."""
    starts = numbers_from(0, IMAGES_PER_CHUNK) if count is None else range(0, count, IMAGES_PER_CHUNK)
    for start in starts:
        end = start + IMAGES_PER_CHUNK
        yield range(start, end if count is None else min(end, count))


def by_chunk(places: Iterable[int]) -> Iterator[list[int]]:
    """Yield rising places in groups that lie in one piece each."""
    group: list[int] = []
    for place in places:
        if group and place // IMAGES_PER_CHUNK != group[0] // IMAGES_PER_CHUNK:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def whole_up_to(count: int) -> int:
    """Return the number of images in the pieces that hold so many, all of them whole."""
    return -(-count // IMAGES_PER_CHUNK) * IMAGES_PER_CHUNK
