"""Nearest neighbors of scored images in the reference, by their features: a memorization check."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from hdit_core.evaluate.feature_batch import FeatureBatch
from hdit_core.evaluate.metrics.precision_recall import squared_distances
from hdit_core.evaluate.metrics.statistics import Statistics, key_of

MOST_QUERIES = 1000
NEIGHBORS = 5


class DigestIndex:
    """Observes a set, and keeps the indices of the images whose neighbors may be searched for."""

    def __init__(self) -> None:
        self._of_key: dict[int, int] = {}

    def observe(self, batch: FeatureBatch, start: int) -> None:
        """Add images. Those with the smallest keys are kept: the sample of features begins with them."""
        for index, digest in enumerate(batch.digests, start):
            self._of_key.setdefault(key_of(digest), index)
        if len(self._of_key) > 2 * MOST_QUERIES:
            self._of_key = dict(sorted(self._of_key.items())[:MOST_QUERIES])

    def of(self, keys: Int64[Tensor, "B"]) -> list[int]:
        """Return the index of the first image with each of these keys, which are among the MOST_QUERIES smallest."""
        return [self._of_key[key] for key in keys.tolist()]


@dataclass(frozen=True)
class Neighbors:
    """Scored images with their nearest neighbors in the reference, the closest pair first.

    Attributes:
        indices: `[Q]`, indices of the images in their set.
        reference_indices: `[Q, K]`, indices of their neighbors in the reference, nearest first; -1 if it has fewer.
        distances: `[Q, K]`, distances between their features; infinite if the reference has fewer.
        copies: number of images that are exact duplicates of reference images.
    """

    indices: Int64[Tensor, "Q"]
    reference_indices: Int64[Tensor, "Q K"]
    distances: Float64[Tensor, "Q K"]
    copies: int

    def to_json(self) -> dict[str, float | int]:
        """Return a summary as JSON values."""
        nearest = self.distances[:, 0]
        return {
            "queries": len(nearest),
            "copies": self.copies,
            "smallest_distance": float(nearest.min()),
            "median_distance": float(nearest.median()),
        }


class NearestSearch:
    """Observes the reference, and keeps the nearest neighbors of some images."""

    def __init__(self, images: Statistics, indices: DigestIndex) -> None:
        """Start a search.

        Args:
            images: the scored set; up to MOST_QUERIES of its images are chosen by the hash of their pixels.
            indices: their indices in the set.
        """
        keys = images.keys[:MOST_QUERIES]
        self._queries: Float64[Tensor, "Q F"] = images.features[:MOST_QUERIES].double()
        self._keys: list[int] = keys.tolist()  # equal for equal images, such as those of a model that collapsed
        self._missing = set(self._keys)  # those without an exact duplicate so far
        self._indices = torch.tensor(indices.of(keys))
        self._squared: Float64[Tensor, "Q K"] = torch.full((len(keys), NEIGHBORS), torch.inf, dtype=torch.float64)
        self._nearest: Int64[Tensor, "Q K"] = torch.full((len(keys), NEIGHBORS), -1)

    def observe(self, batch: FeatureBatch, start: int) -> None:
        """Add some images of the reference."""
        self._missing.difference_update(map(key_of, batch.digests))
        squared = torch.cat([rows for _, rows in squared_distances(self._queries, batch.features.double())])
        indices = torch.arange(start, start + len(batch.digests)).expand(len(self._queries), -1)
        squared, order = torch.cat([self._squared, squared], 1).sort(dim=1, stable=True)
        self._nearest = torch.cat([self._nearest, indices], 1).gather(1, order)[:, :NEIGHBORS]
        self._squared = squared[:, :NEIGHBORS]

    def neighbors(self) -> Neighbors:
        """Return all pairs, the closest first."""
        order = self._squared[:, 0].argsort(stable=True)
        copies = sum(key not in self._missing for key in self._keys)
        return Neighbors(self._indices[order], self._nearest[order], self._squared[order].sqrt(), copies)
