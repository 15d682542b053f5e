"""Scores one batch of pairs: reads both images of each on a common scale, and compares them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64, Shaped, UInt8
from torch import Tensor
from torch.nn.functional import cosine_similarity

from hdit_core.errors import DataError
from hdit_core.evaluate.extractors.extractor import Extractor
from hdit_core.evaluate.features.extract import as_grey
from hdit_core.evaluate.metrics.statistics import image_digest
from hdit_core.evaluate.paired.pairs import Pair
from hdit_core.evaluate.paired.similarity import LEAST_SSIM_SIDE_PX, PEAK, psnr, ssim
from hdit_core.evaluate.paired.value_ranges import DTYPES, ValueRanges

DIGEST_BYTES = 32
NUM_FACTS = 4

Pixels = Shaped[np.ndarray, "_ _ _"]  # height, width, channels


@dataclass(frozen=True)
class PairScores:
    """The scores of some pairs.

    Attributes:
        values: PSNR, SSIM and feature distance of each pair; the distance is 0 without an extractor.
        digests_u8: of the stored values of image and original.
        facts: height and width in pixels, and the data types of image and original as indices of DTYPES.
    """

    values: Float64[Tensor, "N 3"]
    digests_u8: UInt8[np.ndarray, "N 2 32"]
    facts: Int64[np.ndarray, "N 4"]

    def __len__(self) -> int:
        return len(self.facts)

    @classmethod
    def joined(cls, batches: Sequence["PairScores"]) -> "PairScores":
        """Return the scores of all batches, in order."""
        return cls(
            torch.cat([torch.zeros(0, 3, dtype=torch.float64), *(batch.values for batch in batches)]),
            np.concatenate([np.zeros((0, 2, DIGEST_BYTES), np.uint8), *(batch.digests_u8 for batch in batches)]),
            np.concatenate([np.zeros((0, NUM_FACTS), np.int64), *(batch.facts for batch in batches)]),
        )

    @property
    def sizes(self) -> set[str]:
        """The sizes of the images."""
        return {f"{height}x{width}" for height, width in self.facts[:, :2].tolist()}

    def dtypes(self, side: int) -> list[str]:
        """Return the data types of the images (side 0) or of the originals (1)."""
        return [DTYPES[number] for number in np.unique(self.facts[:, 2 + side])]


@dataclass(frozen=True)
class PairScorer:
    """Compares images with their originals.

    Attributes:
        ranges: the values that count as black and white.
        extractor: for the feature distance; None: without it.
    """

    ranges: ValueRanges
    extractor: Extractor | None = None

    @property
    def device(self) -> torch.device:
        """Where features are computed."""
        return self.extractor.device if self.extractor else torch.device("cpu")

    def score(self, pairs: Sequence[Pair]) -> PairScores:
        """Return the scores of pairs.

        Raises:
            DataError: two images of a pair differ in size or channels, one is damaged, its range is not known, or its
                values are too far outside it.
        """
        stored = [(pair.image(), pair.original()) for pair in pairs]
        images = [self._comparable(pair.name, *both) for pair, both in zip(pairs, stored, strict=True)]
        values = torch.zeros(len(pairs), 3, dtype=torch.float64)
        similarities = [_similarity(pair.name, *both) for pair, both in zip(pairs, images, strict=True)]
        values[:, :2] = torch.tensor(similarities, dtype=torch.float64)
        if self.extractor is not None:
            shown = [
                (self._shown(pair.name, a), self._shown(pair.name, b))
                for pair, (a, b) in zip(pairs, stored, strict=True)
            ]
            values[:, 2] = _feature_distances(shown, self.extractor)
        digests = b"".join(image_digest(as_grey(image)) for both in stored for image in both)
        facts = [(*a.shape[:2], *(DTYPES.index(image.dtype.name) for image in (a, b))) for a, b in stored]
        digests_u8 = np.frombuffer(digests, np.uint8).reshape(-1, 2, DIGEST_BYTES)
        return PairScores(values, digests_u8, np.array(facts, np.int64))

    def _comparable(self, name: str, image: Pixels, original: Pixels) -> tuple[Pixels, Pixels]:
        """Return both images on one scale, with one channel if both are grey."""
        _check_sizes(name, image, original)
        if image.dtype == original.dtype == np.uint8 and self.ranges.are_full("uint8"):
            a, b = as_grey(image), as_grey(original)
        else:
            a, b = self.ranges.on_one_scale(image, original, name)
        channels = max(a.shape[2], b.shape[2])
        return np.broadcast_to(a, (*a.shape[:2], channels)), np.broadcast_to(b, (*b.shape[:2], channels))

    def _shown(self, name: str, stored: Pixels) -> UInt8[np.ndarray, "_ _ _"]:
        """Return an image in 8 bits, for an extractor.

        Raises:
            DataError: it has another number of channels than grey or RGB.
        """
        if stored.shape[2] not in (1, 3):
            raise DataError(f"{name}: has {stored.shape[2]} channels; extractors take 1 or 3: leave out --extractor")
        if stored.dtype == np.uint8 and self.ranges.are_full("uint8"):
            return as_grey(stored)
        return as_grey(np.rint(self.ranges.in_unit_range(stored, name) * 255).clip(0, 255).astype(np.uint8))


def _check_sizes(name: str, a: Pixels, b: Pixels) -> None:
    sizes = [f"{image.shape[0]}x{image.shape[1]}" for image in (a, b)]
    if sizes[0] != sizes[1]:
        raise DataError(f"{name}: is {sizes[0]} pixels, its original {sizes[1]}; expected pairs of the same size")
    if min(a.shape[:2]) < LEAST_SSIM_SIDE_PX:
        raise DataError(
            f"{name}: is {sizes[0]} pixels; SSIM needs at least {LEAST_SSIM_SIDE_PX}x{LEAST_SSIM_SIDE_PX}, the size of "
            "its window"
        )
    if a.shape[2] != b.shape[2] and {a.shape[2], b.shape[2]} != {1, 3}:
        raise DataError(
            f"{name}: has {a.shape[2]} channels, its original {b.shape[2]}; expected pairs of the same channels"
        )


def _similarity(name: str, a: Pixels, b: Pixels) -> tuple[float, float]:
    peak = PEAK if a.dtype == np.uint8 else 1.0
    found = psnr(a, b, peak), ssim(a, b, peak)
    if found[0] == -math.inf or not math.isfinite(found[1]):
        raise DataError(
            f"{name}: has values too far outside the range to be compared; give the range of the values with --range "
            "LOW,HIGH"
        )
    return found


def _feature_distances(images: Sequence[tuple[Pixels, Pixels]], extractor: Extractor) -> Float64[Tensor, "N"]:
    """Return the cosine distance of each pair's features, 0 to 2."""
    features = [extractor.features([extractor.prepare(both[side]) for both in images]).double() for side in (0, 1)]
    return 1 - cosine_similarity(features[0], features[1], eps=1e-12)
