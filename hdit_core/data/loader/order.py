"""The order of images: each epoch is a different permutation, computed and not stored.

The n-th image of a run is a function of only (seed, n), so a run's position is one integer, independent of ranks,
workers and micro-batches. Epoch `n // N` is a keyed bijection of `n % N`: a Feistel network over the digits
of a number in mixed radix (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002), iterated until the
result is one of the N images (cycle walking). Two digits of about sqrt(N) values leave fewer than sqrt(N) numbers
outside, so iteration is rarely needed. The cost does not depend on the number of images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, Integer, UInt64

ROUNDS = 8
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: spreads multiples of small numbers


@runtime_checkable
class Order(Protocol):
    """Maps each image of a run to an image of the data set."""

    def images_at(self, numbers: Integer[np.ndarray, " B"], skip: int = 0) -> Int64[np.ndarray, " B"]:
        """Return positions in the index.

        Args:
            numbers: positions in the run, 0 <= n < 2^63; in any order, of any epochs.
            skip: 0; or k for the image k positions later, which has the same size and can be its replacement.
        """
        ...


def splitmix64(words: UInt64[np.ndarray, " B"]) -> UInt64[np.ndarray, " B"]:
    """Return well-mixed 64-bit words: the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), modulo 2^64."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def epoch_keys(seed: int, epochs: UInt64[np.ndarray, " B"]) -> UInt64[np.ndarray, " B"]:
    """Return the key of each epoch's permutation."""
    return splitmix64(splitmix64(np.full_like(epochs, seed) + GOLDEN) + epochs * GOLDEN)


def _permute(
    places: UInt64[np.ndarray, " B"], keys: UInt64[np.ndarray, " B"], num_high: int, num_low: int
) -> UInt64[np.ndarray, " B"]:
    """Permute 0 .. num_high * num_low - 1: each digit in turn is shifted by a hash of the other."""
    high, low = np.divmod(places, np.uint64(num_low))
    for turn in range(0, ROUNDS, 2):
        high = (high + splitmix64(keys + low + np.uint64(turn << 56)) % np.uint64(num_high)) % np.uint64(num_high)
        low = (low + splitmix64(keys + high + np.uint64(turn + 1 << 56)) % np.uint64(num_low)) % np.uint64(num_low)
    return high * np.uint64(num_low) + low


def permute(places: UInt64[np.ndarray, " B"], keys: UInt64[np.ndarray, " B"], count: int) -> UInt64[np.ndarray, " B"]:
    """Apply a keyed bijection of 0 .. count - 1; 1 <= count < 2^62."""
    assert 1 <= count < 1 << 62, count
    num_high = math.isqrt(count - 1) + 1
    num_low = -(-count // num_high)
    results = _permute(places, keys, num_high, num_low)
    while (outside := results >= count).any():
        results[outside] = _permute(results[outside], keys[outside], num_high, num_low)
    return results


def images_at(seed: int, numbers: Integer[np.ndarray, " B"], num_images: int) -> Int64[np.ndarray, " B"]:
    """Return the indices in the data set of the n-th images of a run.

    Args:
        seed: seed of the run, 0 <= seed < 2^64.
        numbers: n, 0 <= n < 2^63; in any order, of any epochs.
        num_images: N, images in the data set, 1 <= N < 2^62.
    """
    epochs, places = np.divmod(numbers.astype(np.uint64), np.uint64(num_images))
    return permute(places, epoch_keys(seed, epochs), num_images).astype(np.int64)


@dataclass(frozen=True)
class UniformOrder:
    """A uniformly random order of each epoch; consecutive images come from anywhere in the data set."""

    seed: int
    num_images: int

    def images_at(self, numbers: Integer[np.ndarray, " B"], skip: int = 0) -> Int64[np.ndarray, " B"]:
        """See `Order`."""
        return images_at(self.seed, numbers + skip, self.num_images)


KEPT_EPOCHS = 2


@dataclass(frozen=True)
class _Epoch:
    key: UInt64[np.ndarray, " one"]
    shards: Int64[np.ndarray, " S"]  # in the order of the epoch
    starts: Int64[np.ndarray, " S+1"]  # images of the epoch before each shard of that order, and in total


def _window_key(epoch: UInt64[np.ndarray, " one"], window: int) -> UInt64[np.ndarray, " one"]:
    return splitmix64(epoch + GOLDEN * np.array([window + 2], np.uint64))  # 1 is for the key of the shards


class BlockOrder:
    """Shuffles the shards, then the images within windows of consecutive shards; an `Order`."""

    def __init__(self, seed: int, shard_sizes: Sequence[int], block_shards: int) -> None:
        """Choose an order.

        Args:
            seed: seed of the run, 0 <= seed < 2^64.
            shard_sizes: images in each shard, which are consecutive in the index.
            block_shards: shards per window, at least 1; more shuffle better.
        """
        self.seed, self.block_shards = seed, block_shards
        self._sizes = np.array(shard_sizes, np.int64)
        self._offsets = np.cumsum(self._sizes) - self._sizes
        self._epochs: dict[int, _Epoch] = {}

    def images_at(self, numbers: Integer[np.ndarray, " B"], skip: int = 0) -> Int64[np.ndarray, " B"]:
        """See `Order`."""
        epochs, places = np.divmod(numbers.astype(np.int64) + skip, self._sizes.sum())
        indices = np.empty_like(places)
        for number in np.unique(epochs):
            chosen = epochs == number
            indices[chosen] = self._images_of(self._epoch(int(number)), places[chosen])
        return indices

    def _epoch(self, number: int) -> _Epoch:
        """Return the order of the shards in an epoch, cached while it is in use."""
        if number not in self._epochs:
            key = epoch_keys(self.seed, np.array([number], np.uint64))
            places = np.arange(len(self._sizes), dtype=np.uint64)
            shards = permute(places, splitmix64(key + GOLDEN).repeat(len(places)), len(places)).astype(np.int64)
            while len(self._epochs) >= KEPT_EPOCHS:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[number] = _Epoch(key, shards, np.concatenate([[0], np.cumsum(self._sizes[shards])]))
        return self._epochs[number]

    def _images_of(self, epoch: _Epoch, places: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Return the images at these positions of an epoch."""
        windows = _shards_at(epoch, places) // self.block_shards
        moved = np.empty_like(places)
        for window in np.unique(windows):
            chosen = windows == window
            last = min((int(window) + 1) * self.block_shards, len(epoch.shards))
            start, end = int(epoch.starts[window * self.block_shards]), int(epoch.starts[last])
            keys = _window_key(epoch.key, int(window)).repeat(chosen.sum())
            moved[chosen] = start + permute((places[chosen] - start).astype(np.uint64), keys, end - start)
        at = _shards_at(epoch, moved)
        return self._offsets[epoch.shards[at]] + moved - epoch.starts[at]


def _shards_at(epoch: _Epoch, places: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
    """Return which shard of the epoch's order contains each position; empty shards contain none."""
    return np.searchsorted(epoch.starts, places, side="right") - 1
