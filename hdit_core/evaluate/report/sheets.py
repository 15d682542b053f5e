"""Picture sheets of a score: some of the images, and images beside their nearest in the reference."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.evaluate.metrics.nearest_neighbours import Neighbours
from hdit_core.images import sheet, to_pil

THUMBNAIL_PX = 128
PAIRS = 8  # rows of the sheet of neighbours
SAMPLES = 36


def sample_sheet(images: ImageSet) -> UInt8[np.ndarray, "H W 3"]:
    """Return a sheet of the first images of a set.

    Raises:
        UsageError: it is a stream.
    """
    count = SAMPLES if images.count is None else min(SAMPLES, images.count)
    return sheet(np.stack([thumbnail(image_u8) for image_u8 in images.read_many(range(count))]))


def neighbour_sheet(images: ImageSet, reference: ImageSet, found: Neighbours) -> UInt8[np.ndarray, "H W 3"]:
    """Return rows of an image and its nearest in the reference, with their distances, the nearest pair first.

    Raises:
        UsageError: one of the sets is a stream.
    """
    places = found.places[:PAIRS].tolist()
    neighbours = found.reference_places[:PAIRS].tolist()
    wanted = [place for row in neighbours for place in row if place >= 0]
    theirs = dict(zip(wanted, map(thumbnail, reference.read_many(wanted)), strict=True))
    blank = np.full((THUMBNAIL_PX, THUMBNAIL_PX, 3), 255, np.uint8)
    cells, captions = [], []
    for image_u8, row, distances in zip(images.read_many(places), neighbours, found.distances.tolist(), strict=False):
        cells += [thumbnail(image_u8), *(theirs.get(place, blank) for place in row)]
        captions += ["sample", *_captions(distances)]
    return sheet(np.stack(cells), captions, columns=1 + found.reference_places.shape[1])


def _captions(distances: Sequence[float]) -> list[str]:
    return [f"at {distance:.4g}" if np.isfinite(distance) else "" for distance in distances]


def thumbnail(image_u8: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "S S 3"]:
    """Return an image in colour, fitted into a white square; small ones are enlarged pixel by pixel."""
    image = to_pil(image_u8).convert("RGB")
    scale = THUMBNAIL_PX / max(image.size)
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), how)
    square = Image.new("RGB", (THUMBNAIL_PX, THUMBNAIL_PX), (255, 255, 255))
    square.paste(image, ((THUMBNAIL_PX - image.width) // 2, (THUMBNAIL_PX - image.height) // 2))
    return np.asarray(square)
