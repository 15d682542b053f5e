"""Opens images to evaluate: a prepared data set, a folder, an archive, arrays, a named set, a stream."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from hdit_core.data.format.manifest import MANIFEST
from hdit_core.data.format.retry_reads import read_image_file
from hdit_core.data.image.unusable import UnusableImageError
from hdit_core.data.image_sets.depth import Depth, EightBits, FullDepth, depth_of
from hdit_core.data.image_sets.image_set import ImageSet, ReadImage, class_map_sha256
from hdit_core.data.image_sets.npz import ImageArray
from hdit_core.data.image_sets.saved_values import saved_values
from hdit_core.data.image_sets.tar_stream import read_tar, stdin_bytes
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.sources.file_filter import is_hidden
from hdit_core.data.sources.resolve import open_source
from hdit_core.data.sources.source import Source, fetch
from hdit_core.errors import DataError, UsageError, counted
from hdit_core.files import STDIN, STDIN_NAME
from hdit_core.randomness import stream

LOSSY_SUFFIX = re.compile(r"\.(jpe?g|jpe|jfif|mpo)$", re.IGNORECASE)
FILE_KINDS = ("folder", "zip", "tar")  # may also contain other files; a file with an image's name has to be one

SUBSET_PURPOSE = "score-subset"  # name of the random numbers that select n images

Choose = Callable[[int], list[int]]
"""Returns the numbers of the chosen images, given how many there are."""


def open_images(
    location: str,
    n: int | None = None,
    seed: int = 0,
    *,
    channels: int = 3,
    purpose: str = SUBSET_PURPOSE,
    full_depth: bool = False,
) -> ImageSet:
    """Return the images of a prepared data set, a folder, an archive, ADM's npz, a named set, or a tar on stdin.

    Args:
        location: its path, its name, or "-".
        n: number of images, selected at random without replacement; default all.
        seed: seed of the selection.
        channels: channels to decode image files to; data sets and arrays keep theirs.
        purpose: name of the random numbers of the selection.
        full_depth: read the stored values, of any number of channels, instead of images in 8 bits.

    Raises:
        UsageError: there is nothing at `location`, or n images of a stream are asked for.
        DataError: it contains no images or fewer than n, or is damaged; for a damaged image, the message names it.
    """
    if location == STDIN:
        return _of_stream(n, depth_of(channels, full_depth, None))
    path, choose, draw = Path(location), partial(_choose, location, n, seed, purpose), _draw(n, seed)
    if (path / MANIFEST).is_file():
        return _of_data_set(location, choose, draw, full_depth)
    if path.suffix.lower() == ".npz" and path.is_file():
        return _of_arrays(path, choose, draw)
    saved = saved_values(path)
    facts: list[object] = [] if saved is None else [(saved.dtype, saved.ranges)]
    if path.is_file():  # files in a tar often have equal times
        facts.append((path.stat().st_size, path.stat().st_mtime_ns))
    return _of_source(location, choose, draw, depth_of(channels, full_depth, saved), facts)


def _of_data_set(location: str, choose: Choose, draw: dict[str, int], full_depth: bool) -> ImageSet:
    reader = ImageReader(Path(location), cache_bytes=0)
    chosen = choose(len(reader))
    manifest = reader.manifest
    source = {"kind": "data set", "path": location, "root": manifest.root, **draw}
    if manifest.contents.class_counts:
        source["class_counts"] = list(manifest.contents.class_counts)
    if manifest.contents.classes:
        source["class_map"] = class_map_sha256(manifest.contents.classes)

    pixels = manifest.contents.pixels
    depth = FullDepth(pixels) if full_depth else EightBits(pixels.channels)

    def read(places: Sequence[int]) -> Iterator[ReadImage]:
        return (partial(_read_sample, reader, chosen[place], depth) for place in places)

    def label(place: int) -> int:
        return reader.label(chosen[place])

    return ImageSet(
        source,
        len(chosen),
        read,
        _identity(manifest.root, chosen),
        numbers=chosen,
        label=label if reader.num_classes else None,
        recorded=depth.recorded,
    )


def _read_sample(reader: ImageReader, index: int, depth: Depth) -> Shaped[np.ndarray, "H W C"]:
    try:
        return depth.of_sample(reader.read(index)[0], reader.manifest.contents.pixels)
    except UnusableImageError as problem:
        raise DataError(f"{reader.folder}: cannot be scored: {problem}") from None


def _of_arrays(path: Path, choose: Choose, draw: dict[str, int]) -> ImageSet:
    array = ImageArray(path)
    chosen = choose(array.count)
    source = {"kind": "npz", "path": str(path), **draw}

    def read(places: Sequence[int]) -> Iterator[ReadImage]:
        return array.readers([chosen[place] for place in places])

    return ImageSet(source, len(chosen), read, _identity(array.identity, chosen), numbers=chosen)


def _of_stream(n: int | None, depth: Depth) -> ImageSet:
    if n is not None:
        raise UsageError(f"--count {n}: all images of a stream are scored; send only {n} of them")

    def read(_: Sequence[int]) -> Iterator[ReadImage]:
        def is_wanted(name: str) -> bool:
            return depth.is_image(name) and not is_hidden(name)

        for name, content in read_tar(stdin_bytes(), is_wanted, STDIN_NAME):
            yield partial(_decode, content, depth, f"stdin: {name}")

    return ImageSet({"kind": "stream", "path": STDIN}, None, read)


def _of_source(location: str, choose: Choose, draw: dict[str, int], depth: Depth, facts: Sequence[object]) -> ImageSet:
    """Return the images of a source; besides its entries, `facts` change when any image may have changed."""
    source = open_source(location, read_labels=False)
    is_image = [source.kind not in FILE_KINDS or depth.is_image(entry.name) for entry in source.entries]
    numbers = [number for number, wanted in enumerate(is_image) if wanted]
    others = len(is_image) - len(numbers)
    chosen = [numbers[place] for place in choose(len(numbers))]
    entries = [source.entries[number] for number in chosen]
    lossy = sum(bool(LOSSY_SUFFIX.search(entry.name)) for entry in entries)
    left_out = f"{location}: skipped {counted(others, 'file')} without the name of an image"
    compressed = f"{location}: JPEG compression of {counted(lossy, 'image')} changes the score"
    return ImageSet(
        source={"kind": source.kind, "path": location, **draw},
        count=len(chosen),
        open=lambda places: _fetch_all(source, [chosen[place] for place in places], location, depth),
        identity=_identity([(entry.name, entry.size_bytes, entry.changed_at) for entry in entries], *facts),
        remarks=((left_out,) if others else ()) + ((compressed,) if lossy else ()),
        names=[entry.name for entry in entries],
        numbers=chosen,
        recorded=depth.recorded,
    )


def _fetch_all(source: Source, numbers: Sequence[int], location: str, depth: Depth) -> Iterator[ReadImage]:
    """Yield functions that decode the images; they are fetched in ascending order, as sources need it."""
    for number in numbers:
        entry = source.entries[number]
        where = f"{location}: {entry.name}"
        if entry.problem is not None:
            raise DataError(f"{where}: {entry.problem}; remove or replace it")
        try:
            content = fetch(where, partial(source.fetch, number))
        except ValueError as problem:
            raise DataError(f"{where}: cannot be read ({problem})") from None
        yield partial(_decode, content, depth, where)


def _decode(content: bytes | Path, depth: Depth, where: str) -> Shaped[np.ndarray, "H W C"]:
    try:
        return depth.of_file(content if isinstance(content, bytes) else read_image_file(content))
    except UnusableImageError as problem:
        raise DataError(f"{where}: cannot be scored ({problem}); remove or replace it") from None


def _choose(location: str, n: int | None, seed: int, purpose: str, count: int) -> list[int]:
    """Return the numbers of n images out of `count`, in ascending order."""
    if not count:
        raise DataError(f"{location}: no images in it; expected files such as .png, .jpg or .webp")
    if n is None or n == count:
        return list(range(count))
    if n > count:
        raise DataError(f"{location}: --count {n}: it has only {counted(count, 'image')}")
    chosen = stream(seed, purpose, 0).choice(count, n, replace=False)
    return sorted(int(number) for number in chosen)


def _draw(n: int | None, seed: int) -> dict[str, int]:
    return {} if n is None else {"subset_seed": seed}


def _identity(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()
