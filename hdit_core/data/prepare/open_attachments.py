"""Opens the attachments of the images of a preparation: condition images, vectors and captions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hdit_core.data.format.retry_reads import read_image_file
from hdit_core.data.image.arrays.decode_picture import stored_format
from hdit_core.data.image.arrays.pixel_format import Dtype, PixelFormat, ValueRange
from hdit_core.data.image.resize import Resize, ResizeFilter
from hdit_core.data.image.unusable import UnusableImageError
from hdit_core.data.prepare.transform import ConditionSettings
from hdit_core.data.sources.attachments import Attachments, AttachmentSource, Kind, PartnerFiles
from hdit_core.data.sources.files.file_source import FileSource
from hdit_core.data.sources.resolve import open_source
from hdit_core.data.sources.source import Source, fetch
from hdit_core.data.sources.vector_table import VectorTable
from hdit_core.errors import DataError, UsageError


@dataclass(frozen=True, kw_only=True)
class AttachmentSettings:
    """The attachments that are prepared with the images."""

    condition: str | None = None  # folder, zip or tar of condition images, or a column of a Parquet source
    condition_channels: int | None = None  # None: those of the first one; also for the data type
    condition_dtype: Dtype | None = None
    condition_range: tuple[ValueRange, ...] = ()
    condition_resize: ResizeFilter | None = None  # None: that of the images
    vectors: str | None = None  # .npy, .csv or .tsv file, or a column of a Parquet source
    captions: bool = False  # keep the texts next to the images


_OF_CONDITIONS = ("condition_channels", "condition_dtype", "condition_range", "condition_resize")


def _own(source: Source, kind: Kind, column: str | None = None) -> Attachments | None:
    return source.attachments(kind, column) if isinstance(source, AttachmentSource) else None


def _open_condition(source: Source, location: str | None) -> Attachments | None:
    """Return the condition images: those of --condition, else those of the source itself.

    Raises:
        UsageError: they are of a kind without names.
    """
    if location is None:
        return _own(source, "condition")
    if (column := _own(source, "condition", location)) is not None:
        return column
    partners = open_source(location, read_labels=False)
    if not isinstance(partners, FileSource):
        raise UsageError(
            f"--condition {location}: is {partners.kind}, expected a folder, zip or tar of images with the names of "
            "those in SOURCE; shards have condition images of their own, as KEY.cond.png next to KEY.png"
        )
    return PartnerFiles(partners, source.entries, location)


def _open_vectors(source: Source, location: str | None) -> Attachments | None:
    if location is None:
        return _own(source, "vector")
    if (column := _own(source, "vector", location)) is not None:
        return column
    return VectorTable(Path(location), [entry.name for entry in source.entries])


def _open_captions(source: Source, is_wanted: bool) -> Attachments | None:
    captions = _own(source, "caption") if is_wanted or source.kind == "data set" else None
    if captions is None and is_wanted:
        raise DataError(
            f"--captions: '{source.name}' has no captions; expected text files next to the images, such as a.txt "
            "for a.jpg, KEY.txt or a caption in KEY.json in shards, or a column text or caption in Parquet"
        )
    return captions


def open_attachments(source: Source, settings: AttachmentSettings) -> dict[Kind, Attachments]:
    """Return the attachments of a source by kind; kinds that the source lacks are omitted.

    Raises:
        UsageError, DataError: one is named and cannot be opened.
    """
    opened: dict[Kind, Attachments | None] = {
        "condition": _open_condition(source, settings.condition),
        "vector": _open_vectors(source, settings.vectors),
        "caption": _open_captions(source, settings.captions),
    }
    return {kind: attachments for kind, attachments in opened.items() if attachments is not None}


def _fetched(attachments: Attachments, numbers: Iterable[int]) -> Iterable[bytes | Path]:
    """Yield the attachments that can be read."""
    for number in numbers:
        try:
            content = fetch(attachments.name, partial(attachments.fetch, number))
        except ValueError:
            continue
        if content is not None:
            yield content


def _first_format(condition: Attachments, numbers: Iterable[int], pages_as_channels: bool) -> PixelFormat:
    """Return channels and data type of the first condition image that can be read."""
    reason = "expected equal names"
    for content in _fetched(condition, numbers):
        try:
            data = read_image_file(content) if isinstance(content, Path) else content
            return stored_format(data, pages_as_channels)
        except UnusableImageError as problem:
            reason = str(problem)
    raise DataError(f"{condition.name}: no image of SOURCE has a readable condition image in it: {reason}")


def condition_settings(
    attachments: Mapping[Kind, Attachments],
    settings: AttachmentSettings,
    resize: Resize,
    numbers: Iterable[int],
    pages_as_channels: bool,
) -> ConditionSettings | None:
    """Return the transform of the condition images, None if there are none.

    Args:
        attachments: attachments of the source.
        settings: the user's settings; the others are those of the first condition image.
        resize: filter of the images.
        numbers: indices of the images without a problem.
        pages_as_channels: of a TIFF with several pages.

    Raises:
        UsageError: the settings contradict each other, or there are options but no condition images.
        DataError: no condition image can be read.
    """
    condition = attachments.get("condition")
    if condition is None:
        if any(getattr(settings, name) for name in _OF_CONDITIONS):
            raise UsageError("--condition-...: there are no condition images; name them with --condition")
        return None
    pixels = PixelFormat(settings.condition_channels or 1, settings.condition_dtype or "uint8")
    if settings.condition_channels is None or settings.condition_dtype is None:
        first = _first_format(condition, numbers, pages_as_channels)
        pixels = PixelFormat(settings.condition_channels or first.channels, settings.condition_dtype or first.dtype)
    pixels = replace(pixels, value_range=settings.condition_range)
    if problem := pixels.problem():
        hint = "; give it with --condition-range LOW,HIGH" if pixels.dtype == "float32" else ""
        raise UsageError(f"--condition: condition images of {problem}{hint}")
    return ConditionSettings(pixels, settings.condition_resize or resize)


def vector_dim(attachments: Mapping[Kind, Attachments], numbers: Iterable[int]) -> int:
    """Return the length of the first vector, 0 without vectors.

    Raises:
        DataError: no image has one.
    """
    vectors = attachments.get("vector")
    if vectors is None:
        return 0
    for content in _fetched(vectors, numbers):
        if isinstance(content, bytes) and content:
            return len(content) // 4
    raise DataError(f"{vectors.name}: has no vector for any image of SOURCE")
