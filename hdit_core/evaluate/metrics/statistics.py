"""Statistics of a set of images in a feature space: mean and covariance in float64, and a bounded sample of features.

The sample of features, the division into blocks and the fingerprint of a set depend on its pixels alone: each image has
the sha256 of its pixels, the sample consists of the images with the smallest digests, and the fingerprint is the sum of
all digests. So nothing depends on file names, order, batches, threads or ranks.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, Shaped
from torch import Tensor

from hdit_core.errors import DataError, NumericalError


@dataclass(frozen=True)
class Moments:
    """The first two moments of a set of features.

    Attributes:
        n: number of images.
        mean: `[F]`.
        scatter: `[F, F]`, the sum over images of (x - mean) (x - mean)^T.
    """

    n: int
    mean: Float64[Tensor, "F"]
    scatter: Float64[Tensor, "F F"]

    @property
    def covariance(self) -> Float64[Tensor, "F F"]:
        """The unbiased covariance; needs at least two images."""
        return self.scatter / (self.n - 1)


class MomentSum:
    """Accumulates moments; rows are buffered until there are enough for an efficient matrix product."""

    ROWS_AT_ONCE = 512

    def __init__(self, num_features: int) -> None:
        self.num_features = num_features
        self._n = 0
        self._mean = torch.zeros(num_features, dtype=torch.float64)
        self._scatter: Float64[Tensor, "F F"] | None = None  # 34 MB at 2048 features, allocated with the first rows
        self._buffer: list[Tensor] = []

    def add(self, features: Float[Tensor, "B F"]) -> None:
        """Add features; the result is bit-identical for any batch sizes."""
        while len(features):
            room = self.ROWS_AT_ONCE - sum(map(len, self._buffer))
            self._buffer.append(features[:room])
            features = features[room:]
            if len(self._buffer[-1]) == room:
                self._flush()

    def moments(self) -> Moments:
        """Return the moments of all rows so far."""
        self._flush()
        empty = torch.zeros(self.num_features, self.num_features, dtype=torch.float64)
        return Moments(self._n, self._mean, empty if self._scatter is None else self._scatter)

    def _flush(self) -> None:
        if self._buffer:
            exact = torch.cat(self._buffer).double()
            mean = exact.mean(0)
            self.merge(Moments(len(exact), mean, (exact - mean).T @ (exact - mean)))
        self._buffer = []

    def merge(self, other: Moments) -> None:
        """Add another set's moments."""
        if not other.n:
            return
        total = self._n + other.n
        delta = other.mean - self._mean
        self._scatter = other.scatter.clone() if self._scatter is None else self._scatter.add_(other.scatter)
        self._scatter.addr_(delta, delta, alpha=self._n * other.n / total)
        self._mean = self._mean + delta * (other.n / total)
        self._n = total


def merged(parts: Iterable[Moments], num_features: int) -> Moments:
    """Return the moments of the union of several sets."""
    whole = MomentSum(num_features)
    for part in parts:
        whole.merge(part)
    return whole.moments()


KEPT_FEATURES = 10_000  # per set, for the kernel distance: 82 MB at 2048 features


def image_digest(image: Shaped[np.ndarray, "H W C"]) -> bytes:
    """Return the sha256 of an image's shape and pixels, 32 bytes."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()


class FeatureSample:
    """The features of the `capacity` images with the smallest digests: a uniform sample in any order."""

    def __init__(self, num_features: int, capacity: int) -> None:
        self.capacity = capacity
        self._keys = torch.empty(0, dtype=torch.int64)
        self._features = torch.empty(0, num_features)
        self._pending: list[tuple[Tensor, Tensor]] = []

    def add(self, keys: Int64[Tensor, "B"], features: Float32[Tensor, "B F"]) -> None:
        """Add features with their keys, the smallest of which are kept."""
        self._pending.append((keys, features))
        if sum(len(keys) for keys, _ in self._pending) >= self.capacity:
            self._flush()

    def sorted(self) -> tuple[Int64[Tensor, "B"], Float32[Tensor, "B F"]]:
        """Return the keys in ascending order, and their features."""
        self._flush()
        return self._keys, self._features

    def _flush(self) -> None:
        if self._pending:
            keys = torch.cat([self._keys, *(keys for keys, _ in self._pending)])
            order = keys.argsort(stable=True)[: self.capacity]
            features = torch.cat([self._features, *(features for _, features in self._pending)])
            self._keys, self._features, self._pending = keys[order], features[order], []


@dataclass(frozen=True)
class Statistics:
    """Statistics of a set of images in a feature space.

    Attributes:
        n: number of images; None if unknown, as in statistics of other programs.
        mean: `[F]` float64.
        covariance: `[F, F]` float64, unbiased.
        features: `[K, F]` float32, the sample of features, all of them if n <= KEPT_FEATURES; K may be 0.
        keys: `[K]` int64, ascending: the first 8 bytes of the digest of each image in the sample.
        fingerprint: the sum of the images' digests modulo 2^256, 64 hexadecimal digits; equal for equal sets in any
            order; "" if unknown.
        blocks: the moments of the set's blocks, for the interval of a score; may be empty.
    """

    n: int | None
    mean: Float64[Tensor, "F"]
    covariance: Float64[Tensor, "F F"]
    features: Float32[Tensor, "K F"]
    keys: Int64[Tensor, "K"]
    fingerprint: str
    blocks: tuple[Moments, ...] = ()

    @property
    def num_features(self) -> int:
        """The dimension of the feature space."""
        return len(self.mean)

    @property
    def has_all_features(self) -> bool:
        """Whether the sample of features is complete."""
        return self.n is not None and len(self.features) == self.n

    def of_blocks(self, chosen: Collection[int]) -> "Statistics":
        """Return the statistics of some of the set's blocks."""
        moments = merged([self.blocks[block] for block in chosen], self.num_features)
        rows = torch.isin(block_of(self.keys, len(self.blocks)), torch.tensor(sorted(chosen)))
        return Statistics(
            moments.n, moments.mean, moments.covariance, self.features[rows], self.keys[rows], self.fingerprint
        )


def key_of(digest: bytes) -> int:
    """Return the number that decides whether an image is in the sample, and its block."""
    return int.from_bytes(digest[:8], "big", signed=True)


def block_of(keys: Int64[Tensor, "B"], num_blocks: int) -> Int64[Tensor, "B"]:
    """Return the block of each image, 0 <= block < num_blocks: pseudo-random, and equal for equal pixels."""
    return keys.remainder(num_blocks)


class Accumulator:
    """Accumulates the statistics of a set."""

    def __init__(self, num_features: int, kept: int = KEPT_FEATURES, num_blocks: int = 1) -> None:
        """Create an accumulator without images.

        Args:
            num_features: the dimension of the feature space.
            kept: size of the sample of features.
            num_blocks: number of blocks; each has its own moments, 34 MB at 2048 features.
        """
        self.n = 0
        self._num_features = num_features
        self._blocks = [MomentSum(num_features) for _ in range(num_blocks)]
        self._sample = FeatureSample(num_features, kept)
        self._fingerprint = 0

    def add(self, features: Float[Tensor, "B F"], digests: Sequence[bytes]) -> None:
        """Add the features and digests of images.

        Raises:
            NumericalError: a feature is not finite.
        """
        if not features.isfinite().all():
            raise NumericalError("the feature network returned non-finite values; are its weights damaged?")
        keys = torch.tensor([key_of(digest) for digest in digests], dtype=torch.int64)
        blocks = block_of(keys, len(self._blocks))
        for block in blocks.unique().tolist():
            self._blocks[block].add(features[blocks == block])
        self._sample.add(keys, features.float())
        self._fingerprint += sum(int.from_bytes(digest, "big") for digest in digests)
        self.n += len(features)

    def statistics(self) -> Statistics:
        """Return the statistics of all images so far.

        Raises:
            DataError: there are fewer than two images.
        """
        if self.n < 2:
            raise DataError(f"a score needs at least 2 images on both sides; found {self.n}")
        keys, features = self._sample.sorted()
        blocks = [block.moments() for block in self._blocks]
        whole = merged(blocks, self._num_features)
        return Statistics(
            n=self.n,
            mean=whole.mean,
            covariance=whole.covariance,
            features=features,
            keys=keys,
            fingerprint=f"{self._fingerprint % 2**256:064x}",
            blocks=tuple(blocks) if len(blocks) > 1 else (),
        )
