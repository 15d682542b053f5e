"""A score with its provenance and remarks."""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hdit_core.evaluate.features.measure import Measurement
from hdit_core.evaluate.metrics.confidence_intervals import NUM_BLOCKS, DistanceInterval, Estimate
from hdit_core.evaluate.metrics.frechet_distance import FrechetDistance
from hdit_core.evaluate.metrics.kernel_distance import KernelDistance
from hdit_core.evaluate.metrics.nearest_neighbors import Neighbors
from hdit_core.evaluate.metrics.precision_recall import COVERAGE_NEIGHBORS, RECALL_NEIGHBORS

FORMAT = "hdit-score 1"
PAIRED_FORMAT = "hdit-paired-score 1"


@dataclass(frozen=True, repr=False)
class Score:
    """The distances of two sets of images in one feature space.

    Attributes:
        metric: name of the Frechet distance: "fid", or "fd-" with the extractor's name.
        kernel_metric: name of the kernel distance: "kid", or "kd-" with the extractor's name.
        frechet: the Frechet distance.
        spread: its interval, and its extrapolation to infinitely many images.
        kernel: the kernel distance; None if a side has too few features.
        others: the other metrics that could be computed, by name.
        neighbors: the nearest neighbors in the reference, if they were searched for.
        images: the scored set.
        reference: the reference set.
        remarks: limits of the numbers, in plain words.
    """

    metric: str
    kernel_metric: str
    frechet: FrechetDistance
    spread: DistanceInterval
    kernel: KernelDistance | None
    others: dict[str, Estimate]
    neighbors: Neighbors | None
    images: Measurement
    reference: Measurement
    remarks: tuple[str, ...]

    @property
    def name(self) -> str:
        """The metric with the number of images: "fid50k" for exactly 50,000."""
        return name_with_count(self.metric, self.images.statistics.n)

    @property
    def value(self) -> float:
        """The Frechet distance."""
        return self.frechet.value

    def __repr__(self) -> str:
        return f"<Score: {self.name} {self.value:.4f}>"

    def estimates(self) -> dict[str, Estimate]:
        """Return every metric that could be computed, by name."""
        kernel = {self.kernel_metric: self.kernel.estimate} if self.kernel else {}
        return {self.name: self.spread.estimate, **kernel, **self.others}

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; "passport" is its provenance."""
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
            "nearest": self.neighbors.to_json() if self.neighbors else None,
            "n": self.images.statistics.n,
            "n_reference": self.reference.statistics.n,
            "passport": self.provenance(),
            "remarks": list(self.remarks),
        }

    def provenance(self) -> dict[str, Any]:
        """Return what determines the numbers: extractor, both sets, settings and versions."""
        images, reference = self.images.statistics, self.reference.statistics
        overlaps = "precision" in self.others
        return {
            "extractor": self.images.extractor,
            "images": describe(self.images),
            "reference": describe(self.reference),
            "settings": {
                "jackknife_blocks": NUM_BLOCKS,
                "kernel_subsets": self.kernel.subsets if self.kernel else None,
                "kernel_subset_size": self.kernel.subset_size if self.kernel else None,
                "kernel_seed": self.kernel.seed if self.kernel else None,
                "recall_neighbours": RECALL_NEIGHBORS,
                "coverage_neighbours": COVERAGE_NEIGHBORS,
                "manifold_n": len(images.features) if overlaps else None,
                "manifold_n_reference": len(reference.features) if overlaps else None,
            },
            "versions": versions(),
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return the summary, as label and text."""
        lines = [(name, str(estimate)) for name, estimate in self.estimates().items() if name != self.kernel_metric]
        kernel = f"{self.kernel.value:.6f} +- {self.kernel.standard_error:.6f}" if self.kernel else "-"
        infinity = [] if self.spread.infinity is None else [(f"{self.metric}-infinity", f"{self.spread.infinity:.4f}")]
        return [
            lines[0],
            *infinity,
            (self.kernel_metric, kernel),
            *lines[1:],
            *self._neighbor_lines(),
            ("images", _one_line(self.images)),
            ("reference", _one_line(self.reference)),
            ("extractor", extractor_line(self.images.extractor)),
            ("resize", str(self.images.extractor["resize"])),
        ]

    def _neighbor_lines(self) -> list[tuple[str, str]]:
        if self.neighbors is None:
            return []
        numbers = self.neighbors.to_json()
        text = "{copies} of {queries} in the reference; smallest feature distance {smallest_distance:.4g}"
        return [("exact duplicates", text.format(**numbers))]


@dataclass(frozen=True)
class SavedStatistics:
    """The result of `--save-stats` without a reference: the file, and the set whose statistics it has."""

    path: Path
    images: Measurement

    @property
    def remarks(self) -> tuple[str, ...]:
        """Limits of the statistics, in plain words."""
        return self.images.remarks

    def to_json(self) -> dict[str, Any]:
        """Return everything but the statistics as JSON values."""
        passport = {"extractor": self.images.extractor, "images": describe(self.images), "versions": versions()}
        return {
            "saved": str(self.path),
            "n": self.images.statistics.n,
            "passport": passport,
            "remarks": list(self.remarks),
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return the summary, as label and text."""
        extractor = extractor_line(self.images.extractor)
        return [("saved", str(self.path)), ("images", _one_line(self.images)), ("extractor", extractor)]


def name_with_count(metric: str, n: int | None) -> str:
    """Return "fid50k" for 50,000 images, "fid1234" for 1,234, "fd-efficientnet-lite0-500"."""
    if n is None:
        return metric
    count = f"{n // 1000}k" if n % 1000 == 0 else str(n)
    return f"{metric}{count}" if metric.isalpha() else f"{metric}-{count}"


def describe(measured: Measurement) -> dict[str, Any]:
    """Return a set's part of the provenance."""
    return {**measured.source, "n": measured.statistics.n, "fingerprint": measured.statistics.fingerprint}


def versions() -> dict[str, str]:
    """Return the versions of the packages that the numbers may depend on."""
    packages = {"numpy": version("numpy"), "pillow": version("pillow")}
    return {"hdit": version("hdit-toolkit"), "torch": str(torch.__version__), **packages}


def _one_line(measured: Measurement) -> str:
    n, model = measured.statistics.n, measured.source.get("model")
    origin = f"; model: {', '.join(f'{key} {value}' for key, value in model.items())}" if model else ""
    return f"{measured.source['path']} ({'unknown' if n is None else f'{n:,}'} images{origin})"


def extractor_line(extractor: dict[str, Any]) -> str:
    """Return the name of an extractor and the start of its checksum."""
    return f"{extractor['name']}, sha256 {extractor['weights_sha256'][:16]}"
