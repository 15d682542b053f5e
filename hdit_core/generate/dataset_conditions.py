"""Conditions of a data set's own images, for sample grids and evaluations during training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from hdit_core.data.loader.conditioning import Conditioning, Sample
from hdit_core.data.loader.contact_sheet import spread
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.generate.pipeline import ConditionInputs
from hdit_core.images import to_float


@dataclass(frozen=True)
class DatasetConditions:
    """A `ConditionSource`: image i gets the conditions of the data set's image `dataset_indices[i]`.

    Attributes:
        conditioning: of the run; nothing is dropped.
        seed: of the degradations, whose number is i.
        dataset_indices: images of the data set, of the size that is sampled; at least one. They repeat after the last.
    """

    reader: ImageReader
    conditioning: Conditioning
    seed: int
    dataset_indices: Sequence[int]

    def __call__(self, indices: list[int]) -> ConditionInputs:
        """Return the conditions of some images.

        Raises:
            DataError: an image is damaged.
        """
        conditioning, samples = replace(self.conditioning, dropout=0.0), self._samples(indices)
        images = self._as_float(samples)
        return ConditionInputs(
            conditioning.images_of(self.reader, samples, images, self.seed, indices),
            conditioning.vectors_of(samples, self.seed, indices),
        )

    def targets(self, indices: list[int]) -> Float[Tensor, "B C H W"]:
        """Return the images that the conditions were made from or belong to, in [-1, 1]."""
        return self._as_float(self._samples(indices))

    def class_ids(self, indices: list[int]) -> list[int]:
        """Return the classes of these images; -1 for none."""
        return [self.reader.label(self._dataset_index(index)) for index in indices]

    def _dataset_index(self, index: int) -> int:
        return self.dataset_indices[index % len(self.dataset_indices)]

    def _samples(self, indices: list[int]) -> list[Sample]:
        return [self.conditioning.read(self.reader, self._dataset_index(index)) for index in indices]

    def _as_float(self, samples: Sequence[Sample]) -> Float[Tensor, "B C H W"]:
        pixels = np.stack([sample.image for sample in samples])
        return to_float(pixels, self.reader.manifest.contents.pixels.ranges)


def spread_of_size(reader: ImageReader, size: tuple[int, int], count: int) -> list[int]:
    """Return at most `count` images of a size (height, width), evenly spread over those that the data set has."""
    first = 0
    for bucket in reader.manifest.contents.sizes:
        if (bucket.height, bucket.width) == size:
            return [first + index for index in spread(bucket.samples, count)]
        first += bucket.samples
    return []
