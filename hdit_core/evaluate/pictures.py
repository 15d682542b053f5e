"""Sets of images to score: a data set of ours, a folder, or an archive, each image by a function that reads it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hdit_core.data.manifest import MANIFEST
from hdit_core.data.pixels import RefusedImageError, decode_any
from hdit_core.data.reader import ImageReader
from hdit_core.data.source import Source, open_source
from hdit_core.errors import DataError
from hdit_core.randomness import stream

Read = Callable[[], UInt8[np.ndarray, "H W C"]]

# By its name a file is meant to be an image or not; if it is meant to be one, it has to be one.
LOSSY_ENDINGS = frozenset({".jpg", ".jpeg", ".jpe"})
IMAGE_ENDINGS = LOSSY_ENDINGS | {".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"}

# What `hdit sample` writes beside its images.
SAMPLES_RECORD, SAMPLES_SHEET = "samples.json", "grid.png"


@dataclass(frozen=True)
class ImageSet:
    """Images to score.

    Attributes:
        source: where they come from, for the passport.
        count: how many.
        readers: one function an image; calling them is what takes time, and they may be called in threads.
        remarks: what a reader of the score has to know.
    """

    source: dict[str, Any]
    count: int
    readers: Iterable[Read]
    remarks: tuple[str, ...] = ()


def open_images(location: str, n: int | None = None, seed: int = 0) -> ImageSet:
    """Return the images of a prepared data set, a folder or an archive.

    Args:
        location: its path.
        n: how many of them, drawn without replacement; default all.
        seed: of that draw.

    Raises:
        UsageError: there is nothing at `location`.
        DataError: it holds no images, fewer than n, or is damaged; reading an image that is broken names it.
    """
    return (_of_data_set if (Path(location) / MANIFEST).is_file() else _of_source)(location, n, seed)


def _of_data_set(location: str, n: int | None, seed: int) -> ImageSet:
    reader = ImageReader(Path(location), cache_bytes=0)
    chosen = _choose(location, len(reader), n, seed)
    source = {"kind": "data set", "path": location, "root": reader.manifest.root, **_draw(n, seed)}
    return ImageSet(source, len(chosen), [partial(_read_sample, reader, index) for index in chosen])


def _read_sample(reader: ImageReader, index: int) -> UInt8[np.ndarray, "H W C"]:
    image_u8, _ = reader.read(index)
    return image_u8


def _of_source(location: str, n: int | None, seed: int) -> ImageSet:
    source = open_source(location)
    numbers, others = _sort_out(source)
    chosen = [numbers[place] for place in _choose(location, len(numbers), n, seed)]
    passport = {"kind": source.kind, "path": location, **_draw(n, seed)}
    lossy = sum(_ending(source.entries[number].name) in LOSSY_ENDINGS for number in chosen)
    left_out = f"{location}: left out {len(others)} files that are no images by their names"
    compressed = f"{location}: {lossy} images are JPEG, whose compression moves the score"
    remarks = ((left_out,) if others else ()) + ((compressed,) if lossy else ())
    return ImageSet(passport, len(chosen), _fetch_all(source, chosen, location), remarks)


def _sort_out(source: Source) -> tuple[list[int], list[str]]:
    """Return the numbers of the images and the names of what is no image; what hdit sample adds is neither."""
    records = {entry.name for entry in source.entries if PurePosixPath(entry.name).name == SAMPLES_RECORD}
    sheets = {str(PurePosixPath(name).with_name(SAMPLES_SHEET)) for name in records}
    files = [(number, entry.name) for number, entry in enumerate(source.entries) if entry.name not in records | sheets]
    return (
        [number for number, name in files if _ending(name) in IMAGE_ENDINGS],
        [name for _, name in files if _ending(name) not in IMAGE_ENDINGS],
    )


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _fetch_all(source: Source, numbers: Sequence[int], location: str) -> Iterator[Read]:
    """Fetch in ascending order, as sources want it, and leave the decoding to whoever calls what this gives."""
    for number in numbers:
        entry = source.entries[number]
        where = f"{location}: {entry.name}"
        if entry.problem is not None:
            raise DataError(f"{where}: {entry.problem}; remove it or make it anew")
        try:
            yield partial(_decode, source.fetch(number), where)
        except (OSError, ValueError) as problem:
            raise DataError(f"{where}: cannot be read ({problem})") from None


def _decode(content: bytes | Path, where: str) -> UInt8[np.ndarray, "H W C"]:
    try:
        data = content if isinstance(content, bytes) else content.read_bytes()
        return np.asarray(decode_any(data, channels=3).image)
    except (OSError, RefusedImageError) as problem:
        raise DataError(f"{where}: cannot be scored ({problem}); remove it or make it anew") from None


def _choose(location: str, count: int, n: int | None, seed: int) -> list[int]:
    """Return the numbers of the images to score, in ascending order."""
    if not count:
        raise DataError(f"{location}: no images in it; expected files such as {', '.join(sorted(IMAGE_ENDINGS))}")
    if n is None or n == count:
        return list(range(count))
    if n > count:
        raise DataError(f"{location}: --n {n} images were asked for, it has {count}")
    chosen = stream(seed, "score-subset", 0).choice(count, n, replace=False)
    return sorted(int(number) for number in chosen)


def _draw(n: int | None, seed: int) -> dict[str, int]:
    return {} if n is None else {"subset_seed": seed}
