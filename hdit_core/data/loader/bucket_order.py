"""The order of images of several sizes: all images of a training step have one size.

After round c of a run, bucket i of N_i images has had floor((c + 1) N_i / B) whole steps of B images in total. So each
image of any bucket is shown equally often, to within one step, and a bucket of fewer than B images gets a step every
few rounds. The steps of a round are shuffled by a keyed bijection; the k-th step of a bucket takes the images k B to
k B + B - 1 of the bucket's own order, which has its own epochs. Everything is computed from (seed, n).

With `train.batch_growth`, each part of the run with a constant batch size has an order of its own, in which the epochs
of the buckets start again.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from jaxtyping import Int64, Integer

from hdit_core.data.loader.order import GOLDEN, Order, epoch_keys, permute, splitmix64


@dataclass(frozen=True)
class SizeBucket:
    """Images of one size."""

    first: int  # positions of its images in the index
    num_images: int
    order: Order  # order of its images; its indices start at 0


@dataclass(frozen=True)
class BatchSizePhase:
    """A part of a run with a constant batch size."""

    after_images: int  # of the run
    batch_size: int


class BucketOrder:
    """Takes all images of a step from one bucket; an `order.Order`."""

    def __init__(self, seed: int, buckets: Sequence[SizeBucket], parts: Sequence[BatchSizePhase]) -> None:
        """Choose an order.

        Args:
            seed: seed of the run, 0 <= seed < 2^64.
            buckets: the buckets in the order of the index.
            parts: parts of the run; the first starts at 0 images.
        """
        self.seed, self.buckets, self.parts = seed, tuple(buckets), tuple(parts)
        self._num_images = sum(bucket.num_images for bucket in buckets)

    def images_at(self, numbers: Integer[np.ndarray, " B"], skip: int = 0) -> Int64[np.ndarray, " B"]:
        """See `Order`."""
        numbers = numbers.astype(np.int64)
        starts = np.array([part.after_images for part in self.parts])
        parts = np.searchsorted(starts, numbers, side="right") - 1
        sizes = np.array([part.batch_size for part in self.parts])[parts]
        steps, places = np.divmod(numbers - starts[parts], sizes)
        indices = np.empty_like(numbers)
        for part, step in {*zip(parts.tolist(), steps.tolist(), strict=True)}:
            chosen = (parts == part) & (steps == step)
            indices[chosen] = self._images_of(part, step, places[chosen] + skip)
        return indices

    def _images_of(self, part: int, step: int, places: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Return the images at some positions of a step."""
        (bucket, step), batch_size = self._place(part, step), self.parts[part].batch_size
        # each part numbers its epochs from another offset, so that no two parts share an order
        numbers = (part << 24) * bucket.num_images + step * batch_size + places
        return bucket.first + bucket.order.images_at(numbers)

    def _place(self, part: int, step: int) -> tuple[SizeBucket, int]:
        """Return the bucket of a step of a part, and the index of the step among those of the bucket in the part."""
        batch_size = self.parts[part].batch_size
        round_number = self._round_of(batch_size, step)
        before, after = self._steps_before(batch_size, round_number), self._steps_before(batch_size, round_number + 1)
        shares = [a - b for b, a in zip(before, after, strict=True)]

        key = splitmix64(
            epoch_keys(self.seed, np.array([round_number], np.uint64)) + GOLDEN * np.array([part], np.uint64)
        )
        slot = int(permute(np.array([step - sum(before)], np.uint64), key, sum(shares))[0])
        ends = list(accumulate(shares))
        bucket = bisect_right(ends, slot)
        return self.buckets[bucket], before[bucket] + slot - (ends[bucket] - shares[bucket])

    def _steps_before(self, batch_size: int, round_number: int) -> list[int]:
        """Return the number of steps of each bucket before a round."""
        return [round_number * bucket.num_images // batch_size for bucket in self.buckets]

    def _round_of(self, batch_size: int, step: int) -> int:
        """Return the round of a step: the last non-empty one with no more steps before it."""
        low = step * batch_size // self._num_images  # a lower bound
        high = (step + len(self.buckets)) * batch_size // self._num_images + 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if sum(self._steps_before(batch_size, middle)) <= step else (low, middle - 1)
        return low
