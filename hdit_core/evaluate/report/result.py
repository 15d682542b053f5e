"""A score with its passport: what produced it, and what a reader has to know before comparing it."""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hdit_core.evaluate.features.measure import Measurement
from hdit_core.evaluate.metrics.frechet_distance import FrechetDistance
from hdit_core.evaluate.metrics.jackknife import NUM_BLOCKS, DistanceInterval, Estimate
from hdit_core.evaluate.metrics.kernel_distance import KernelDistance
from hdit_core.evaluate.metrics.nearest_neighbours import Neighbours
from hdit_core.evaluate.metrics.precision_recall import COVERAGE_NEIGHBOURS, RECALL_NEIGHBOURS, PrecisionRecall

FORMAT = "hdit-score 1"


@dataclass(frozen=True)
class Score:
    """The distances of two sets of images in one feature space.

    Attributes:
        metric: what the Frechet distance is called: "fid", or "fd-" with the extractor's name.
        kernel_metric: the same for the kernel distance: "kid", or "kd-...".
        frechet: the Frechet distance.
        spread: its interval, and its extrapolation to infinitely many images.
        kernel: the kernel distance; None where a side has no features to draw from.
        manifold: precision, recall, density and coverage; None for the same reason.
        class_score: the Inception Score; None where the extractor has no classifier, or images are few.
        neighbours: the nearest images of the reference, where they were looked for.
        images: the scored set.
        reference: the set it is compared with.
        remarks: in plain words, what the numbers may not be used for.
    """

    metric: str
    kernel_metric: str
    frechet: FrechetDistance
    spread: DistanceInterval
    kernel: KernelDistance | None
    manifold: PrecisionRecall | None
    class_score: Estimate | None
    neighbours: Neighbours | None
    images: Measurement
    reference: Measurement
    remarks: tuple[str, ...]

    @property
    def name(self) -> str:
        """The metric with the number of images in it: "fid50k" for 50,000 and only for them."""
        return name_with_count(self.metric, self.images.statistics.n)

    def estimates(self) -> dict[str, Estimate]:
        """Return every number that has an interval, by its name; those that could not be had are left out."""
        found: dict[str, Estimate | None] = {self.name: self.spread.estimate}
        if self.kernel:
            found[self.kernel_metric] = self.kernel.estimate
        found["inception_score"] = self.class_score
        if self.manifold:
            found |= {name: getattr(self.manifold, name) for name in ("precision", "recall", "density", "coverage")}
        return {name: estimate for name, estimate in found.items() if estimate is not None}

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON knows it; `provenance` is what two results must share to be compared."""
        return {
            "format": FORMAT,
            "metric": self.metric,
            "name": self.name,
            "value": self.frechet.value,
            "mean_term": self.frechet.mean_term,
            "clipped_mass": self.frechet.clipped_mass,
            "infinity": self.spread.infinity,
            self.kernel_metric: asdict(self.kernel) if self.kernel else None,
            "estimates": {name: asdict(estimate) for name, estimate in self.estimates().items()},
            "nearest": self.neighbours.to_json() if self.neighbours else None,
            "n": self.images.statistics.n,
            "n_reference": self.reference.statistics.n,
            "passport": self.provenance(),
            "remarks": list(self.remarks),
        }

    def provenance(self) -> dict[str, Any]:
        """Return what made the numbers."""
        return {
            "extractor": self.images.extractor,
            "images": describe(self.images),
            "reference": describe(self.reference),
            "settings": {
                "jackknife_blocks": NUM_BLOCKS,
                "kernel_subsets": self.kernel.subsets if self.kernel else None,
                "kernel_subset_size": self.kernel.subset_size if self.kernel else None,
                "kernel_seed": self.kernel.seed if self.kernel else None,
                "recall_neighbours": RECALL_NEIGHBOURS,
                "coverage_neighbours": COVERAGE_NEIGHBOURS,
                "manifold_n": self.manifold.n if self.manifold else None,
                "manifold_n_reference": self.manifold.n_reference if self.manifold else None,
            },
            "versions": versions(),
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return what is read first, as label and text."""
        found = [(name, str(estimate)) for name, estimate in self.estimates().items() if name != self.kernel_metric]
        kernel = f"{self.kernel.value:.6f} +- {self.kernel.standard_error:.6f}" if self.kernel else "-"
        infinity = [] if self.spread.infinity is None else [(f"{self.metric}-infinity", f"{self.spread.infinity:.4f}")]
        return [
            found[0],
            *infinity,
            (self.kernel_metric, kernel),
            *found[1:],
            *self._neighbour_lines(),
            ("images", _one_line(self.images)),
            ("reference", _one_line(self.reference)),
            ("extractor", _extractor_line(self.images.extractor)),
            ("resize", str(self.images.extractor["resize"])),
        ]

    def _neighbour_lines(self) -> list[tuple[str, str]]:
        if self.neighbours is None:
            return []
        numbers = self.neighbours.to_json()
        text = "{copies} of {queries} are in the reference, pixel for pixel; nearest at {smallest_distance:.4g}"
        return [("copies", text.format(**numbers))]


@dataclass(frozen=True)
class SavedStatistics:
    """What `--save-stats` did: the file, and the set whose statistics are in it."""

    path: Path
    images: Measurement

    @property
    def remarks(self) -> tuple[str, ...]:
        """In plain words, what the statistics may not be used for."""
        return self.images.remarks

    def to_json(self) -> dict[str, Any]:
        """Return all but the statistics themselves."""
        passport = {"extractor": self.images.extractor, "images": describe(self.images), "versions": versions()}
        return {
            "saved": str(self.path),
            "n": self.images.statistics.n,
            "passport": passport,
            "remarks": list(self.remarks),
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return what is read first, as label and text."""
        extractor = _extractor_line(self.images.extractor)
        return [("saved", str(self.path)), ("images", _one_line(self.images)), ("extractor", extractor)]


def name_with_count(metric: str, n: int | None) -> str:
    """Return "fid50k" for 50,000 images, "fid1234" for 1,234, "fd-efficientnet-lite0-500"."""
    if n is None:
        return metric
    count = f"{n // 1000}k" if n % 1000 == 0 else str(n)
    return f"{metric}{count}" if metric.isalpha() else f"{metric}-{count}"


def describe(measured: Measurement) -> dict[str, Any]:
    """Return a set's part of the passport."""
    return {**measured.source, "n": measured.statistics.n, "fingerprint": measured.statistics.fingerprint}


def versions() -> dict[str, str]:
    """Return the versions that numbers may depend on."""
    packages = {"numpy": version("numpy"), "pillow": version("pillow")}
    return {"hdit": version("hdit-toolkit"), "torch": str(torch.__version__), **packages}


def _one_line(measured: Measurement) -> str:
    n = measured.statistics.n
    return f"{measured.source['path']} ({'unknown' if n is None else f'{n:,}'} images)"


def _extractor_line(passport: dict[str, Any]) -> str:
    return f"{passport['name']}, sha256 {passport['weights_sha256'][:16]}"
