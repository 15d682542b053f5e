"""Opens images to score: a prepared data set, a folder, an archive, arrays, a named set, a stream."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from hdit_core.data.format.manifest import MANIFEST
from hdit_core.data.image.decode import UnusableImageError, decode_image
from hdit_core.data.image_sets.image_set import ImageSet, ReadImage, class_map_sha256
from hdit_core.data.image_sets.npz import ImageArray
from hdit_core.data.image_sets.tar_stream import read_tar
from hdit_core.data.loader.reader import ImageReader
from hdit_core.data.sources.file_filter import is_hidden
from hdit_core.data.sources.resolve import open_source
from hdit_core.data.sources.source import Source
from hdit_core.errors import DataError, UsageError
from hdit_core.randomness import stream

# A file that is an image by its name has to be one by its content.
LOSSY_ENDINGS = frozenset({".jpg", ".jpeg", ".jpe"})
IMAGE_ENDINGS = LOSSY_ENDINGS | {".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"}

STDIN = "-"


def open_images(location: str, n: int | None = None, seed: int = 0) -> ImageSet:
    """Return the images of a prepared data set, a folder, an archive, ADM's npz, a named set, or a tar on stdin.

    Args:
        location: its path, its name, or "-".
        n: how many of them, drawn without replacement; default all.
        seed: of that draw.

    Raises:
        UsageError: there is nothing at `location`, or n images of a stream are asked for.
        DataError: it holds no images, fewer than n, or is damaged; reading an image that is broken names it.
    """
    if location == STDIN:
        return _of_stream(n)
    path = Path(location)
    if (path / MANIFEST).is_file():
        return _of_data_set(location, n, seed)
    if path.suffix == ".npz" and path.is_file():
        return _of_arrays(path, n, seed)
    return _of_source(location, n, seed)


def _of_data_set(location: str, n: int | None, seed: int) -> ImageSet:
    reader = ImageReader(Path(location), cache_bytes=0)
    chosen = _choose(location, len(reader), n, seed)
    manifest = reader.manifest
    source = {"kind": "data set", "path": location, "root": manifest.root, **_draw(n, seed)}
    if manifest.contents.class_counts:
        source["class_counts"] = list(manifest.contents.class_counts)
    if manifest.contents.classes:
        source["class_map"] = class_map_sha256(manifest.contents.classes)

    def read(places: Sequence[int]) -> Iterator[ReadImage]:
        return (partial(_read_sample, reader, chosen[place]) for place in places)

    return ImageSet(source, len(chosen), read, _identity(manifest.root, chosen))


def _read_sample(reader: ImageReader, index: int) -> UInt8[np.ndarray, "H W C"]:
    image_u8, _ = reader.read(index)
    return image_u8


def _of_arrays(path: Path, n: int | None, seed: int) -> ImageSet:
    array = ImageArray(path)
    chosen = _choose(str(path), array.count, n, seed)
    source = {"kind": "npz", "path": str(path), **_draw(n, seed)}

    def read(places: Sequence[int]) -> Iterator[ReadImage]:
        return array.readers([chosen[place] for place in places])

    return ImageSet(source, len(chosen), read, _identity(array.identity, chosen))


def _of_stream(n: int | None) -> ImageSet:
    if n is not None:
        raise UsageError(f"--n {n}: all images of a stream are scored; send only {n} of them")

    def read(_: Sequence[int]) -> Iterator[ReadImage]:
        for name, content in read_tar(sys.stdin.buffer.read, _is_wanted, "stdin"):
            yield partial(_decode, content, f"stdin: {name}")

    return ImageSet({"kind": "stream", "path": STDIN}, None, read)


def _of_source(location: str, n: int | None, seed: int) -> ImageSet:
    source = open_source(location, read_labels=False)
    numbers, others = _split_images_from_others(source, named=not Path(location).exists())
    chosen = [numbers[place] for place in _choose(location, len(numbers), n, seed)]
    entries = [source.entries[number] for number in chosen]
    lossy = sum(_ending(entry.name) in LOSSY_ENDINGS for entry in entries)
    left_out = f"{location}: skipped {len(others)} files that are no images by their names"
    compressed = f"{location}: {lossy} images are JPEG, whose compression moves the score"
    return ImageSet(
        source={"kind": source.kind, "path": location, **_draw(n, seed)},
        count=len(chosen),
        open=lambda places: _fetch_all(source, [chosen[place] for place in places], location),
        identity=_identity([(entry.name, entry.size_bytes, entry.changed_at) for entry in entries]),
        remarks=((left_out,) if others else ()) + ((compressed,) if lossy else ()),
        names=[entry.name for entry in entries],
    )


def _split_images_from_others(source: Source, named: bool) -> tuple[list[int], list[str]]:
    """Return the numbers of the images and the names of other files.

    A named set consists of images, whatever they are called.
    """
    files = [(number, entry.name) for number, entry in enumerate(source.entries)]
    return (
        [number for number, name in files if named or _is_image(name)],
        [name for _, name in files if not named and not _is_image(name)],
    )


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _is_image(name: str) -> bool:
    return _ending(name) in IMAGE_ENDINGS


def _is_wanted(name: str) -> bool:
    return _is_image(name) and not is_hidden(name)


def _fetch_all(source: Source, numbers: Sequence[int], location: str) -> Iterator[ReadImage]:
    """Yield functions that decode the images; they are fetched in ascending order, as sources need it."""
    for number in numbers:
        entry = source.entries[number]
        where = f"{location}: {entry.name}"
        if entry.problem is not None:
            raise DataError(f"{where}: {entry.problem}; remove or replace it")
        try:
            yield partial(_decode, source.fetch(number), where)
        except (OSError, ValueError) as problem:
            raise DataError(f"{where}: cannot be read ({problem})") from None


def _decode(content: bytes | Path, where: str) -> UInt8[np.ndarray, "H W C"]:
    try:
        data = content if isinstance(content, bytes) else content.read_bytes()
        return np.asarray(decode_image(data, channels=3).image)
    except (OSError, UnusableImageError) as problem:
        raise DataError(f"{where}: cannot be scored ({problem}); remove or replace it") from None


def _choose(location: str, count: int, n: int | None, seed: int) -> list[int]:
    """Return the numbers of the images to score, in ascending order."""
    if not count:
        raise DataError(f"{location}: no images in it; expected files such as {', '.join(sorted(IMAGE_ENDINGS))}")
    if n is None or n == count:
        return list(range(count))
    if n > count:
        raise DataError(f"{location}: --n {n}: it has only {count} images")
    chosen = stream(seed, "score-subset", 0).choice(count, n, replace=False)
    return sorted(int(number) for number in chosen)


def _draw(n: int | None, seed: int) -> dict[str, int]:
    return {} if n is None else {"subset_seed": seed}


def _identity(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()
