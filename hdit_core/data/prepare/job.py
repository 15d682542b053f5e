"""A preparation job: every input with its class, and how it is transformed."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hdit_core.data.format.entries import Channels, Codec
from hdit_core.data.format.manifest import read_manifest
from hdit_core.data.image.codec import JPEG_QUALITY
from hdit_core.data.image.decode import LARGEST_IMAGE_PIXELS
from hdit_core.data.image.resize import Crop, ImageSize, Resize, bucket_sizes
from hdit_core.data.prepare.convert import InputImage, TransformSettings
from hdit_core.data.prepare.labels import BY_FOLDER, WITHOUT, Input, label_source
from hdit_core.data.sources.resolve import open_source
from hdit_core.data.sources.source import Source
from hdit_core.errors import DataError, UsageError
from hdit_core.recipe.table import NonNegativeInt, PositiveInt, Seed


@dataclass(frozen=True)
class PrepareJob:
    """Everything that determines the result."""

    source: Source
    inputs: Sequence[Input]
    classes: tuple[str, ...] | None
    labels: Sequence[int]
    rules: TransformSettings
    shard_size: int  # inputs per chunk
    known_roots: tuple[str, ...] = ()  # data sets that must not share an image with this one
    drop_duplicates: bool = False

    @property
    def num_chunks(self) -> int:
        """Number of chunks of the inputs."""
        return -(-len(self.inputs) // self.shard_size)

    def inputs_of(self, chunk: int) -> range:
        """Return the indices of the inputs of a chunk."""
        return range(chunk * self.shard_size, min((chunk + 1) * self.shard_size, len(self.inputs)))

    def settings(self) -> dict[str, str | int]:
        """Return the settings that the manifest records."""
        background = "#{:02x}{:02x}{:02x}".format(*self.rules.background)
        seed = {"seed": self.rules.seed} if self.rules.crop == "random" else {}
        quality = {"quality": self.rules.quality} if self.rules.codec == "jpeg" else {}
        buckets = {"sizes": ",".join(f"{height}x{width}" for height, width in self.rules.buckets)}
        return {
            "crop": self.rules.crop,
            "resize": self.rules.resize,
            "background": background,
            "shard_size": self.shard_size,
            **seed,
            **quality,
            **(buckets if self.rules.buckets else {}),
            **({"not_in": ",".join(self.known_roots)} if self.known_roots else {}),
            **({"duplicates": "dropped"} if self.drop_duplicates else {}),
            **({"min_size": self.rules.min_size} if self.rules.min_size else {}),
            **({"upscale": "no"} if self.rules.no_upscale else {}),
        }

    def fingerprint(self) -> str:
        """Return a hash of the names, sizes, times and classes of all inputs and of the settings."""
        later = {"min_size", "no_upscale"}  # not hashed at their defaults, so that older sets keep their fingerprints
        transform = {key: value for key, value in asdict(self.rules).items() if value or key not in later}
        hashed = hashlib.sha256(json.dumps([transform, self.settings(), self.source.kind, self.classes]).encode())
        for number, one in enumerate(self.inputs):
            entry = self.source.entries[number] if number < len(self.source.entries) else None
            facts = (entry.size_bytes, entry.changed_at) if entry else ()
            hashed.update(json.dumps([one.name, one.class_name, one.problem, *facts]).encode())
        return hashed.hexdigest()

    def task(self, number: int) -> InputImage:
        """Return one input with its file."""
        one = self.inputs[number]
        return InputImage(number, one.name, self.labels[number], one.class_name, one.problem or self._content(number))

    def _content(self, number: int) -> bytes | Path | str:
        try:
            return self.source.fetch(number)
        except (OSError, ValueError) as problem:
            return str(problem)


@dataclass(frozen=True)
class PrepareSettings:
    """The source of a data set, and how it is prepared."""

    source: str  # folder, archive, list or named set
    out: Path
    size: ImageSize  # height, width in pixels
    channels: Channels | None = None  # 1 or 3; None: the source's, else 3
    labels: str = "auto"  # "auto": class folders; "none"; or a csv, jsonl or txt file
    classes: str | None = None  # in index order: "imagenet", a data set, a file; None: the sorted names
    crop: Crop = "center"
    codec: Codec = "png"
    shard_size: PositiveInt = 1000  # inputs per shard
    workers: PositiveInt = 1
    max_bad: str | None = None  # unusable inputs allowed: a number, or a share such as "0.01%"; None: any
    background: tuple[int, int, int] = (255, 255, 255)
    seed: Seed = 0  # of random crops
    resize: Resize = "lanczos"
    quality: Annotated[int, Field(ge=1, le=100)] = JPEG_QUALITY  # of JPEG, 1..100
    buckets: tuple[ImageSize, ...] = ()  # several sizes; each image gets the one with the nearest aspect ratio
    not_in: tuple[Path, ...] = ()  # prepared sets that must not share an image with this one
    drop_duplicates: bool = False  # drop what is in them or came before; else refuse the former, count the latter
    min_size: NonNegativeInt = 0  # leave out images with a shorter side below this, px
    no_upscale: bool = False  # leave out images that would have to be enlarged


def _check_output(settings: PrepareSettings) -> None:
    """Refuse an impossible size or output folder, before a million files are listed."""
    out, source = settings.out, Path(settings.source)
    for height, width in settings.buckets or (settings.size,):
        if height * width > LARGEST_IMAGE_PIXELS:
            raise UsageError(f"--size {height}x{width}: more than {LARGEST_IMAGE_PIXELS // 10**6} million pixels")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; expected a folder, which is created if missing")
    if source.is_dir() and out.resolve() != source.resolve() and out.resolve().is_relative_to(source.resolve()):
        raise UsageError(
            f"--out {out}: is inside the source {source}, so its files would be inputs the next time; "
            "choose a folder outside"
        )


def plan_job(settings: PrepareSettings) -> PrepareJob:
    """List the source and return the job.

    Raises:
        UsageError: there is no such source, or the settings contradict each other.
        DataError: the source cannot be read or is empty, or a set of `not_in` is damaged.
    """
    _check_output(settings)
    labels_path = None if settings.labels in (BY_FOLDER, WITHOUT) else Path(settings.labels)
    source = open_source(settings.source, labels_path, read_labels=settings.labels == BY_FOLDER)
    inputs, classes, labels = label_source(source, settings.labels, settings.classes)
    if not inputs:
        raise DataError(f"{settings.source}: holds no images (hidden, system and text files do not count)")
    height, width = settings.size
    channels = settings.channels or source.channels or 3
    transform = TransformSettings(
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
        min_size=settings.min_size,
        no_upscale=settings.no_upscale,
    )
    roots = tuple(read_manifest(folder).root for folder in settings.not_in)
    return PrepareJob(source, inputs, classes, labels, transform, settings.shard_size, roots, settings.drop_duplicates)
