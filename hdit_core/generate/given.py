"""The images that a user gives to be judged: one file, a folder or archive, a named set, or a prepared data set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from hdit_core.data.convert import read_file
from hdit_core.data.labels import IMAGE_SUFFIX
from hdit_core.data.manifest import MANIFEST
from hdit_core.data.pixels import RefusedImageError, decode_any
from hdit_core.data.reader import ImageReader
from hdit_core.data.source import Source, open_source
from hdit_core.errors import DataError
from hdit_core.generate.folder import GRID, RECORD
from hdit_core.generate.likelihood import Given
from hdit_core.generate.picture import Shape, frame, read_picture
from hdit_core.images import to_pil
from hdit_core.randomness import stream

PURPOSE = "judged-subset"


@dataclass(frozen=True)
class GivenImages:
    """Images that are read as they are asked for.

    Attributes:
        count: how many.
        classes: where their classes come from, for people.
        images: reads them, one after the other.
    """

    count: int
    classes: str
    images: Iterator[Given]


def open_given(
    location: str, shape: Shape, num_classes: int, class_id: int | None = None, n: int | None = None, seed: int = 0
) -> GivenImages:
    """Open images for a network.

    Args:
        location: an image file, a folder or archive of images, a named set, or a prepared data set.
        shape: height, width and channels that the network takes; images of other sizes are cut and scaled.
        num_classes: of the network.
        class_id: of all images; None: as a prepared data set says, else `num_classes`, which means none.
        n: how many, drawn without replacement; None: all.
        seed: of that draw.

    Raises:
        UsageError: there is nothing at `location`.
        DataError: it holds no images, fewer than n, or one that cannot be read.
    """
    path = Path(location)
    if (path / MANIFEST).is_file():
        return _of_data_set(path, shape, num_classes, class_id, n, seed)
    classes = "none" if class_id is None else f"all {class_id}"
    one_class = (num_classes if class_id is None else class_id) if num_classes else None
    if path.is_file() and IMAGE_SUFFIX.search(path.name):
        return GivenImages(1, classes, iter([Given(0, path.name, read_picture(path, shape).image_u8, one_class)]))
    source = open_source(location)
    numbers = _images_in(source)
    chosen = _choose(location, numbers, n, seed)
    return GivenImages(len(chosen), classes, map(partial(_fetch, source, shape, one_class, location), chosen))


def _of_data_set(
    path: Path, shape: Shape, num_classes: int, class_id: int | None, n: int | None, seed: int
) -> GivenImages:
    reader = ImageReader(path, cache_bytes=0)
    follow = bool(num_classes) and class_id is None and reader.num_classes > 0
    if follow and reader.num_classes != num_classes:
        raise DataError(
            f"{path}: holds {reader.num_classes} classes, the network has {num_classes}; give one class with --class"
        )
    if reader.manifest.image_shape[2] != shape[2]:
        raise DataError(
            f"{path}: holds images of {reader.manifest.image_shape[2]} channels, the network takes {shape[2]}; "
            "prepare the data again for it"
        )
    one_class = (num_classes if class_id is None else class_id) if num_classes else None

    def read(number: int) -> Given:
        image_u8, label = reader.read(number)
        labelled = follow and label >= 0
        framed, _ = frame(to_pil(image_u8), shape)
        return Given(number, f"image {number}", framed, label if labelled else one_class)

    chosen = _choose(str(path), range(len(reader)), n, seed)
    classes = "of the data set" if follow else "none" if class_id is None else f"all {class_id}"
    return GivenImages(len(chosen), classes, map(read, chosen))


def _images_in(source: Source) -> list[int]:
    """Return the numbers of the images, by their names, without the sheet that `hdit sample` puts beside its own."""
    folders = {PurePosixPath(entry.name).parent for entry in source.entries if PurePosixPath(entry.name).name == RECORD}
    sheets = {str(folder / GRID) for folder in folders}
    return [
        number
        for number, entry in enumerate(source.entries)
        if entry.name not in sheets and (source.kind not in ("folder", "zip", "tar") or IMAGE_SUFFIX.search(entry.name))
    ]


def _choose(location: str, numbers: Sequence[int], n: int | None, seed: int) -> list[int]:
    """Return the numbers of the images to judge, in ascending order."""
    if not numbers:
        raise DataError(f"{location}: no images in it")
    if n is None or n == len(numbers):
        return list(numbers)
    if n > len(numbers):
        raise DataError(f"{location}: --n {n} images were asked for, it has {len(numbers)}")
    places = stream(seed, PURPOSE, 0).choice(len(numbers), n, replace=False)
    return [numbers[place] for place in sorted(int(place) for place in places)]


def _fetch(source: Source, shape: Shape, class_id: int | None, location: str, number: int) -> Given:
    entry = source.entries[number]
    where = f"{location}: {entry.name}"
    if entry.problem is not None:
        raise DataError(f"{where}: {entry.problem}; remove it or make it anew")
    try:
        content = source.fetch(number)
        data = content if isinstance(content, bytes) else read_file(content)
        image_u8, _ = frame(decode_any(data, shape[2]).image, shape)
    except (OSError, ValueError, RefusedImageError) as problem:
        raise DataError(f"{where}: cannot be judged ({problem}); remove it or make it anew") from None
    return Given(number, entry.name, image_u8, class_id)
