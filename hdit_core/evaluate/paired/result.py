"""The scores of pairs with their provenance, as JSON and as lines of text."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from hdit_core.evaluate.metrics.confidence_intervals import Estimate, estimate
from hdit_core.evaluate.paired.similarity import K1, K2, PEAK, WINDOW_SIGMA_PX
from hdit_core.evaluate.report.result import PAIRED_FORMAT, extractor_line, versions

LEAST_FOR_INTERVAL = 5
NORMAL_QUANTILE = 1.959964


@dataclass(frozen=True)
class ScoredSet:
    """One of the two sets: where it comes from, its number of images, and a hash of their pixels in order."""

    source: dict[str, Any]
    n: int
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Return its part of the provenance."""
        return {**self.source, "n": self.n, "fingerprint": self.fingerprint}


@dataclass(frozen=True)
class PairedScore:
    """How similar images are to their originals.

    Attributes:
        psnr: of each pair, in dB; infinite for identical images.
        ssim: of each pair.
        distance: cosine distance of each pair's features; None without an extractor.
        extractor: its provenance; empty without one.
        matched_by: "name" or "order".
        images, originals: the sets.
        set_remarks: what a reader has to know of the sets and the extractor.
    """

    psnr: Float64[Tensor, "N"]
    ssim: Float64[Tensor, "N"]
    distance: Float64[Tensor, "N"] | None
    extractor: dict[str, Any]
    matched_by: str
    images: ScoredSet
    originals: ScoredSet
    set_remarks: tuple[str, ...]

    @property
    def values(self) -> str:
        """Data type and range of the values that are mapped to 0..1; empty if both sets have 8 bits."""
        sides = [side.source.get("values", {}) for side in (self.images, self.originals)]
        ranges = {dtype: pairs for side in sides for dtype, pairs in side.items()}
        shown = {dtype: ", ".join(f"{low:g} to {high:g}" for low, high in pairs) for dtype, pairs in ranges.items()}
        return "; ".join(f"{dtype}, {text}" for dtype, text in shown.items())

    @property
    def num_identical(self) -> int:
        """Number of pairs of identical images."""
        return int(self.psnr.isinf().sum())

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the scores has to know."""
        by_order = "pairs are matched by order: a data set, an npz or a stream has no file names"
        infinite = f"{self.num_identical} identical pairs are left out of psnr, which is infinite for them"
        conditions = {by_order: self.matched_by == "order", infinite: self.num_identical > 0}
        return (*self.set_remarks, *(remark for remark, holds in conditions.items() if holds))

    def estimates(self) -> dict[str, Estimate]:
        """Return the mean of each score over the pairs, with its interval, by name."""
        columns = {"psnr": self.psnr[self.psnr.isfinite()], "ssim": self.ssim}
        if self.distance is not None:
            columns[f"cosine-distance-{self.extractor['name']}"] = self.distance
        return {name: mean_of_pairs(values) for name, values in columns.items() if len(values)}

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; "passport" is its provenance."""
        estimates = self.estimates()
        first = next(iter(estimates))
        return {
            "format": PAIRED_FORMAT,
            "metric": first,
            "name": first,
            "value": estimates[first].value,
            "estimates": {name: asdict(estimate) for name, estimate in estimates.items()},
            "n": self.images.n,
            "n_identical": self.num_identical,
            "passport": self.provenance(),
            "remarks": list(self.remarks),
        }

    def provenance(self) -> dict[str, Any]:
        """Return what determines the numbers: extractor, both sets, settings and versions."""
        window = {"sigma_px": WINDOW_SIGMA_PX, "k1": K1, "k2": K2, "covariance": "of the window's distribution"}
        return {
            "extractor": self.extractor,
            "images": self.images.to_json(),
            "reference": self.originals.to_json(),
            "settings": {"matched_by": self.matched_by, "peak": 1.0 if self.values else PEAK, "ssim_window": window},
            "versions": versions(),
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return the summary, as label and text."""
        units = {"psnr": " dB"}
        return [
            *((name, f"{value}{units.get(name, '')}") for name, value in self.estimates().items()),
            ("pairs", f"{self.images.n:,}, matched by {self.matched_by}; {self.num_identical:,} identical"),
            ("images", str(self.images.source["path"])),
            ("reference", str(self.originals.source["path"])),
            *([("values", self.values)] if self.values else []),
            *([("extractor", extractor_line(self.extractor))] if self.extractor else []),
        ]


def mean_of_pairs(values: Float64[Tensor, "N"]) -> Estimate:
    """Return the mean with its 95 % interval by the jackknife over pairs, none for fewer than 5 pairs.

    The jackknife of a mean that leaves out one pair at a time is its standard error in closed form, s / sqrt(n).
    """
    n, mean = len(values), float(values.mean())
    if n < LEAST_FOR_INTERVAL:
        return Estimate(mean)
    return estimate(mean, float(values.std()) / math.sqrt(n), t_quantile(n - 1))


def t_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t (Abramowitz and Stegun 26.7.5), within 0.3 % from 4 degrees on."""
    z, v = NORMAL_QUANTILE, degrees
    terms = [
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    ]
    return z + sum(term / v**power for power, term in enumerate(terms, 1))
