"""The nearest images of the reference to the scored ones, by their features: what a network may have memorised."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from hdit_core.evaluate.feature_batch import FeatureBatch
from hdit_core.evaluate.metrics.precision_recall import squared_distances
from hdit_core.evaluate.metrics.statistics import Statistics, key_of

MOST_QUERIES = 1000
NEIGHBOURS = 5


class DigestIndex:
    """Watches a set pass, and remembers where those of its images stand that may be searched for."""

    def __init__(self) -> None:
        self._of_key: dict[int, int] = {}

    def observe(self, batch: FeatureBatch, start: int) -> None:
        """Remember some images; of all so far, those with the smallest keys, which the kept sample begins with."""
        for place, digest in enumerate(batch.digests, start):
            self._of_key.setdefault(key_of(digest), place)
        if len(self._of_key) > 2 * MOST_QUERIES:
            self._of_key = dict(sorted(self._of_key.items())[:MOST_QUERIES])

    def of(self, keys: Int64[Tensor, "B"]) -> list[int]:
        """Return where images stand by their keys, of the MOST_QUERIES smallest; of several equal ones the first."""
        return [self._of_key[key] for key in keys.tolist()]


@dataclass(frozen=True)
class Neighbours:
    """Scored images with their nearest in the reference, the most suspicious pair first.

    Attributes:
        places: `[Q]`, of the images in their set.
        reference_places: `[Q, K]`, of their neighbours in the reference, nearest first; -1 where it has fewer.
        distances: `[Q, K]`, between their features; infinite where it has fewer.
        copies: how many of the images are in the reference pixel for pixel.
    """

    places: Int64[Tensor, "Q"]
    reference_places: Int64[Tensor, "Q K"]
    distances: Float64[Tensor, "Q K"]
    copies: int

    def to_json(self) -> dict[str, float | int]:
        """Return the numbers among it."""
        nearest = self.distances[:, 0]
        return {
            "queries": len(nearest),
            "copies": self.copies,
            "smallest_distance": float(nearest.min()),
            "median_distance": float(nearest.median()),
        }


class NearestSearch:
    """Watches the reference pass, and keeps for each of some images the nearest that it has seen."""

    def __init__(self, images: Statistics, places: DigestIndex) -> None:
        """Begin a search.

        Args:
            images: the scored set, of which up to MOST_QUERIES are drawn by the hash of their pixels.
            places: where they stand in their set.
        """
        keys = images.keys[:MOST_QUERIES]
        self._queries: Float64[Tensor, "Q F"] = images.features[:MOST_QUERIES].double()
        self._missing = set(keys.tolist())  # queries of which no copy has been seen
        self._num_keys = len(self._missing)
        self._places = torch.tensor(places.of(keys))
        self._squared: Float64[Tensor, "Q K"] = torch.full((len(keys), NEIGHBOURS), torch.inf, dtype=torch.float64)
        self._nearest: Int64[Tensor, "Q K"] = torch.full((len(keys), NEIGHBOURS), -1)

    def observe(self, batch: FeatureBatch, start: int) -> None:
        """Look at some images of the reference."""
        self._missing.difference_update(map(key_of, batch.digests))
        squared = torch.cat([rows for _, rows in squared_distances(self._queries, batch.features.double())])
        places = torch.arange(start, start + len(batch.digests)).expand(len(self._queries), -1)
        squared, order = torch.cat([self._squared, squared], 1).sort(dim=1, stable=True)
        self._nearest = torch.cat([self._nearest, places], 1).gather(1, order)[:, :NEIGHBOURS]
        self._squared = squared[:, :NEIGHBOURS]

    def neighbours(self) -> Neighbours:
        """Return all pairs, those with the smallest distance first."""
        order = self._squared[:, 0].argsort(stable=True)
        return Neighbours(
            self._places[order], self._nearest[order], self._squared[order].sqrt(), self._num_keys - len(self._missing)
        )
