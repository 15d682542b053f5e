"""What a user asks of a preparation, and the inputs that it leads to."""

from dataclasses import dataclass
from pathlib import Path

from hdit_core.data.buckets import ImageSize, bucket_sizes
from hdit_core.data.codec import JPEG_QUALITY
from hdit_core.data.convert import Rules
from hdit_core.data.framing import Crop, Resize
from hdit_core.data.labels import BY_FOLDER, WITHOUT, label_source
from hdit_core.data.manifest import Channels, Codec, read_manifest
from hdit_core.data.pixels import LARGEST_IMAGE_PIXELS
from hdit_core.data.source import open_source
from hdit_core.data.work import Work
from hdit_core.errors import DataError, UsageError


@dataclass(frozen=True)
class PrepareSettings:
    """What to make of which images."""

    source: str  # folder, archive or named set
    out: Path
    size: ImageSize  # height, width in pixels
    channels: Channels | None = None  # 1 or 3; None: what the source knows, else 3
    labels: str = "auto"  # "auto": class folders; "none"; or a csv, jsonl or txt file
    classes: str | None = None  # what fixes their numbers: "imagenet", a data set, a file; None: the sorted names
    crop: Crop = "center"
    codec: Codec = "png"
    shard_size: int = 1000  # inputs a shard
    workers: int = 1
    max_bad: str | None = None  # rejects to live with: a number, or a share such as "0.01%"; None: any
    background: tuple[int, int, int] = (255, 255, 255)
    seed: int = 0  # of random crops
    resize: Resize = "lanczos"
    quality: int = JPEG_QUALITY  # of JPEG, 1..100
    buckets: tuple[ImageSize, ...] = ()  # several sizes, of which each image gets that of the nearest shape
    not_in: tuple[Path, ...] = ()  # prepared sets of which no image may be in this one
    drop_duplicates: bool = False  # leave out what is in them, or came before; else refuse the former, count the latter


def _check_place(settings: PrepareSettings) -> None:
    """Refuse a size or a folder that nothing good can come of, before a million files are listed."""
    out, source = settings.out, Path(settings.source)
    for height, width in settings.buckets or (settings.size,):
        if height * width > LARGEST_IMAGE_PIXELS:
            raise UsageError(f"--size {height}x{width}: more than {LARGEST_IMAGE_PIXELS // 10**6} million pixels")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; expected a folder, which is made where there is none")
    if source.is_dir() and out.resolve() != source.resolve() and out.resolve().is_relative_to(source.resolve()):
        raise UsageError(
            f"--out {out}: lies inside the source {source}, so that its files would be inputs the next time; "
            "choose a folder outside"
        )


def plan(settings: PrepareSettings) -> Work:
    """List the source and settle what is made of it.

    Raises:
        UsageError: there is no such source, or the settings contradict each other.
        DataError: the source cannot be read or is empty, or a set that is to hold none of it is damaged.
    """
    _check_place(settings)
    labels_path = None if settings.labels in (BY_FOLDER, WITHOUT) else Path(settings.labels)
    source = open_source(settings.source, leave_out=labels_path)
    inputs, classes, labels = label_source(source, settings.labels, settings.classes)
    if not inputs:
        raise DataError(f"{settings.source}: holds no files; expected images")
    height, width = settings.size
    channels = settings.channels or source.channels or 3
    rules = Rules(
        height=height,
        width=width,
        channels=channels,
        crop=settings.crop,
        codec=settings.codec,
        background=settings.background,
        seed=settings.seed,
        resize=settings.resize,
        quality=settings.quality,
        buckets=bucket_sizes(settings.buckets),
    )
    roots = tuple(read_manifest(folder).root for folder in settings.not_in)
    return Work(source, inputs, classes, labels, rules, settings.shard_size, roots, settings.drop_duplicates)
