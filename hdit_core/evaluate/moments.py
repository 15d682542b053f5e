"""Mean and scatter of features in float64, and their merging: any order and any division come out the same.

Chan, Golub and LeVeque 1983; sums in float32 would be off by 1e-5 of a covariance's entries.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """The first two moments of a set of features.

    Attributes:
        n: how many images.
        mean: `[F]`.
        scatter: `[F, F]`, the sum over images of (x - mean) (x - mean)^T.
    """

    n: int
    mean: Float64[Tensor, "F"]
    scatter: Float64[Tensor, "F F"]

    @property
    def covariance(self) -> Float64[Tensor, "F F"]:
        """The unbiased covariance; of fewer than two images there is none."""
        return self.scatter / (self.n - 1)


class MomentSum:
    """Moments in the making; rows wait until a product over many of them is worth its while."""

    ROWS_AT_ONCE = 512

    def __init__(self, num_features: int) -> None:
        self.num_features = num_features
        self._n = 0
        self._mean = torch.zeros(num_features, dtype=torch.float64)
        self._scatter: Float64[Tensor, "F F"] | None = (
            None  # 34 MB at 2048 features, made when there is something in it
        )
        self._waiting: list[Tensor] = []

    def add(self, features: Float[Tensor, "B F"]) -> None:
        """Add features; in which portions they come changes no bit of the result."""
        while len(features):
            room = self.ROWS_AT_ONCE - sum(map(len, self._waiting))
            self._waiting.append(features[:room])
            features = features[room:]
            if len(self._waiting[-1]) == room:
                self._settle()

    def moments(self) -> Moments:
        """Return what has come together so far."""
        self._settle()
        empty = torch.zeros(self.num_features, self.num_features, dtype=torch.float64)
        return Moments(self._n, self._mean, empty if self._scatter is None else self._scatter)

    def _settle(self) -> None:
        if self._waiting:
            exact = torch.cat(self._waiting).double()
            mean = exact.mean(0)
            self.merge(Moments(len(exact), mean, (exact - mean).T @ (exact - mean)))
        self._waiting = []

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
    """Return the moments of several sets together."""
    whole = MomentSum(num_features)
    for part in parts:
        whole.merge(part)
    return whole.moments()
