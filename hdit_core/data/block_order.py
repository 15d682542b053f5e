"""An order for disks that are slow to seek, and for remote stores: a few shards are read at a time.

Each epoch the shards are shuffled; every `block_shards` of them in that order make a window, and the images of a window
are shuffled among themselves. Both are keyed bijections, as in `order`: an image is still a function of (seed, n) and
comes exactly once an epoch, whatever the sizes of the shards; but one window is read to its end before the next begins.
What is kept in memory is a few numbers for each shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Integer, UInt64

from hdit_core.data.order import GOLDEN, epoch_keys, mixed, shuffled

KEPT_EPOCHS = 2


@dataclass(frozen=True)
class _Epoch:
    key: UInt64[np.ndarray, " one"]
    shards: Int64[np.ndarray, " S"]  # in the order of the epoch
    starts: Int64[np.ndarray, " S+1"]  # images of the epoch before each shard of that order, and in all


def _window_key(epoch: UInt64[np.ndarray, " one"], window: int) -> UInt64[np.ndarray, " one"]:
    return mixed(epoch + GOLDEN * np.array([window + 2], np.uint64))  # 1 is for the key of the shards


class BlockOrder:
    """See above; an `order.Order`."""

    def __init__(self, seed: int, shard_sizes: Sequence[int], block_shards: int) -> None:
        """Choose an order.

        Args:
            seed: the run's, 0 <= seed < 2^64.
            shard_sizes: images in each shard; those of a shard are neighbours in the index.
            block_shards: shards in a window, at least 1. More mix better.
        """
        self.seed, self.block_shards = seed, block_shards
        self._sizes = np.array(shard_sizes, np.int64)
        self._offsets = np.cumsum(self._sizes) - self._sizes
        self._epochs: dict[int, _Epoch] = {}

    def images_at(self, numbers: Integer[np.ndarray, " B"], later: int = 0) -> Int64[np.ndarray, " B"]:
        """See `Order`."""
        epochs, places = np.divmod(numbers.astype(np.int64) + later, self._sizes.sum())
        indices = np.empty_like(places)
        for number in np.unique(epochs):
            chosen = epochs == number
            indices[chosen] = self._images_of(self._epoch(int(number)), places[chosen])
        return indices

    def _epoch(self, number: int) -> _Epoch:
        """Return the order of the shards in an epoch, kept while it is in use."""
        if number not in self._epochs:
            key = epoch_keys(self.seed, np.array([number], np.uint64))
            places = np.arange(len(self._sizes), dtype=np.uint64)
            shards = shuffled(places, mixed(key + GOLDEN).repeat(len(places)), len(places)).astype(np.int64)
            while len(self._epochs) >= KEPT_EPOCHS:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[number] = _Epoch(key, shards, np.concatenate([[0], np.cumsum(self._sizes[shards])]))
        return self._epochs[number]

    def _images_of(self, epoch: _Epoch, places: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Return which images have these places in an epoch."""
        windows = _shards_at(epoch, places) // self.block_shards
        moved = np.empty_like(places)
        for window in np.unique(windows):
            chosen = windows == window
            last = min((int(window) + 1) * self.block_shards, len(epoch.shards))
            start, end = int(epoch.starts[window * self.block_shards]), int(epoch.starts[last])
            keys = _window_key(epoch.key, int(window)).repeat(chosen.sum())
            moved[chosen] = start + shuffled((places[chosen] - start).astype(np.uint64), keys, end - start)
        at = _shards_at(epoch, moved)
        return self._offsets[epoch.shards[at]] + moved - epoch.starts[at]


def _shards_at(epoch: _Epoch, places: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
    """Return which shard of the epoch's order each place lies in; empty ones hold none."""
    return np.searchsorted(epoch.starts, places, side="right") - 1
