"""A score with its passport: what produced it, and what a reader has to know before comparing it."""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hdit_core.evaluate.distance import FrechetDistance, KernelDistance
from hdit_core.evaluate.measure import Measurement


@dataclass(frozen=True)
class Score:
    """The distances of two sets of images in one feature space.

    Attributes:
        metric: what the Frechet distance is called: "fid", or "fd-" with the extractor's name.
        kernel_metric: the same for the kernel distance: "kid", or "kd-...".
        frechet: the Frechet distance.
        kernel: the kernel distance; None where a side has no features to draw from.
        images: the scored set.
        reference: the set it is compared with.
        remarks: in plain words, what the numbers may not be used for.
    """

    metric: str
    kernel_metric: str
    frechet: FrechetDistance
    kernel: KernelDistance | None
    images: Measurement
    reference: Measurement
    remarks: tuple[str, ...]

    @property
    def name(self) -> str:
        """The metric with the number of images in it: "fid50k" for 50,000 and only for them."""
        return name_with_count(self.metric, self.images.statistics.n)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON knows it; `passport` is what two results must share to be compared."""
        return {
            "metric": self.metric,
            "name": self.name,
            "value": self.frechet.value,
            "mean_term": self.frechet.mean_term,
            "clipped_mass": self.frechet.clipped_mass,
            self.kernel_metric: asdict(self.kernel) if self.kernel else None,
            "n": self.images.statistics.n,
            "n_reference": self.reference.statistics.n,
            "passport": {
                "extractor": self.images.extractor,
                "images": describe(self.images),
                "reference": describe(self.reference),
                "versions": versions(),
            },
            "remarks": list(self.remarks),
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return what is read first, as label and text."""
        kernel = f"{self.kernel.value:.6f} +- {self.kernel.standard_error:.6f}" if self.kernel else "-"
        return [
            (self.name, f"{self.frechet.value:.4f}"),
            (self.kernel_metric, kernel),
            ("images", _one_line(self.images)),
            ("reference", _one_line(self.reference)),
            ("extractor", _extractor_line(self.images.extractor)),
            ("resize", str(self.images.extractor["resize"])),
        ]


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
    return {"hdit": version("hdit-toolkit"), "torch": str(torch.__version__)}


def _one_line(measured: Measurement) -> str:
    n = measured.statistics.n
    return f"{measured.source['path']} ({'unknown' if n is None else f'{n:,}'} images)"


def _extractor_line(passport: dict[str, Any]) -> str:
    return f"{passport['name']}, sha256 {passport['weights_sha256'][:16]}"
