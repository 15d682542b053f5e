"""A preparation job: every input with its class, and how it is transformed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from hdit_core.data.format.manifest import Manifest, read_manifest
from hdit_core.data.format.manifest_entries import Channels, Codec
from hdit_core.data.image.arrays.pixel_format import Dtype, PixelFormat, ValueRange
from hdit_core.data.image.codec import JPEG_QUALITY
from hdit_core.data.image.decode import LARGEST_IMAGE_PIXELS
from hdit_core.data.image.resize import Crop, ImageSize, Resize, bucket_sizes
from hdit_core.data.prepare.class_assignment import BY_FOLDER, WITHOUT, InputTable, label_source
from hdit_core.data.prepare.open_attachments import (
    AttachmentSettings,
    condition_settings,
    open_attachments,
    vector_dim,
)
from hdit_core.data.prepare.transform import InputImage, TransformSettings
from hdit_core.data.sources.attachments import Attachments, Kind
from hdit_core.data.sources.resolve import open_source
from hdit_core.data.sources.source import Source, fetch
from hdit_core.errors import DataError, UsageError
from hdit_core.recipe.base_table import NonNegativeInt, PositiveInt, Seed

_KEPT = object()
_LATER = {
    each.name: each.default
    for each in fields(TransformSettings)
    if each.name in ("min_size", "no_upscale", "dtype", "value_range", "condition", "vector_dim", "pages_as_channels")
}
"""Settings that are not hashed if they have these defaults, so that older sets keep their fingerprints."""


def _shown(ranges: tuple[ValueRange, ...]) -> str:
    return " ".join(f"{low:g},{high:g}" for low, high in ranges)


_CALLED = {"condition": "condition image", "vector": "vector"}


@dataclass(frozen=True)
class PrepareJob:
    """Everything that determines the result."""

    source: Source
    inputs: InputTable
    classes: tuple[str, ...] | None
    labels: Sequence[int]
    rules: TransformSettings
    shard_size: int  # inputs per chunk
    known_roots: tuple[str, ...] = ()  # data sets that must not share an image with this one
    drop_duplicates: bool = False
    attachments: Mapping[Kind, Attachments] = field(default_factory=dict)

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
            **({"dtype": self.rules.dtype} if self.rules.dtype != "uint8" else {}),
            **({"range": _shown(self.rules.value_range)} if self.rules.value_range else {}),
            **({"tiff_pages": "channels"} if self.rules.pages_as_channels else {}),
            **{f"{kind}s": attachments.name for kind, attachments in self.attachments.items()},
            **({"condition_resize": self.rules.condition.resize} if self.rules.condition else {}),
        }

    def fingerprint(self) -> str:
        """Return a hash of the names, sizes, times and classes of all inputs and of the settings."""
        transform = {key: value for key, value in asdict(self.rules).items() if value != _LATER.get(key, _KEPT)}
        hashed = hashlib.sha256(json.dumps([transform, self.settings(), self.source.kind, self.classes]).encode())
        for number, one in enumerate(self.inputs):
            entry = self.source.entries[number] if number < len(self.source.entries) else None
            facts: list[object] = [entry.size_bytes, entry.changed_at] if entry else []
            facts += [fact for attachments in self.attachments.values() for fact in attachments.facts(number)]
            hashed.update(json.dumps([one.name, one.class_name, one.problem, *facts]).encode())
        return hashed.hexdigest()

    def task(self, number: int) -> InputImage:
        """Return one input with its file."""
        one = self.inputs[number]
        image = InputImage(number, one.name, self.labels[number], one.class_name, one.problem or self._content(number))
        return image if isinstance(image.content, str) else self._with_attachments(image)

    def _with_attachments(self, image: InputImage) -> InputImage:
        """Return an input with its condition image, vector and caption, or with the reason why one is unreadable."""
        parts: dict[str, Any] = {}
        for kind, attachments in self.attachments.items():
            try:
                parts[kind] = fetch(image.name, partial(attachments.fetch, image.number))
            except ValueError as problem:
                return replace(image, content=str(problem))
            if parts[kind] is None and kind != "caption":
                return replace(image, content=f"no {_CALLED[kind]}, which other images of the source have")
        return replace(image, **parts)

    def _content(self, number: int) -> bytes | Path | str:
        try:
            return fetch(self.inputs[number].name, lambda: self.source.fetch(number))
        except ValueError as problem:
            return str(problem)


@dataclass(frozen=True)
class PrepareSettings(AttachmentSettings):
    """The source of a data set, and how it is prepared."""

    source: str  # folder, archive, list or named set
    out: Path
    size: ImageSize  # height, width in pixels
    channels: Channels | None = None  # None: the source's, else 3
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
    drop_duplicates: bool = False  # drop repeated images and those of `not_in`; else count, or refuse
    min_size: NonNegativeInt = 0  # leave out images with a shorter side below this, px
    no_upscale: bool = False  # leave out images that would have to be enlarged
    dtype: Dtype = "uint8"
    value_range: tuple[ValueRange, ...] = ()  # values mapped to -1 and 1: one pair, or one per channel; see PixelFormat
    pages_as_channels: bool = False  # the pages of a TIFF are the channels of one image


def _check_output(settings: PrepareSettings) -> None:
    """Refuse an impossible size or output folder before the source is listed."""
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
        raise DataError(f"{settings.source}: contains no images (hidden, system and text files do not count)")
    attachments = open_attachments(source, settings)
    manifests = {folder: read_manifest(folder) for folder in settings.not_in}
    _check_comparable(manifests, "condition" in attachments)
    return PrepareJob(
        source,
        inputs,
        classes,
        labels,
        _rules(settings, source, inputs, attachments),
        settings.shard_size,
        tuple(manifest.root for manifest in manifests.values()),
        settings.drop_duplicates,
        attachments,
    )


def _check_comparable(manifests: Mapping[Path, Manifest], has_condition: bool) -> None:
    """Refuse to compare a set of pairs with a set of images without condition images: their hashes differ."""
    for folder, manifest in manifests.items():
        if (manifest.contents.condition is not None) != has_condition:
            has, lacks = ("this set", folder) if has_condition else (folder, "this set")
            raise UsageError(
                f"--not-in {folder}: {has} has condition images, {lacks} has none; duplicates are pairs in the one and "
                "images in the other, so they cannot be compared"
            )


def _pixels(settings: PrepareSettings, source: Source) -> PixelFormat:
    """Return the format of the images.

    Raises:
        UsageError: the settings contradict each other.
    """
    pixels = PixelFormat(settings.channels or source.channels or 3, settings.dtype, settings.value_range)
    if problem := pixels.problem():
        hint = "; give it with --range LOW,HIGH" if settings.dtype == "float32" and not settings.value_range else ""
        raise UsageError(f"--channels, --dtype, --range: images of {problem}{hint}")
    if settings.codec != "png" and not pixels.is_8_bit_image:
        raise UsageError(
            f"--format {settings.codec}: stores 8-bit grayscale and RGB only; leave it out: images of "
            f"{pixels.channels} channels and type {pixels.dtype} are stored as .npy"
        )
    return pixels


def _rules(
    settings: PrepareSettings, source: Source, inputs: InputTable, attachments: Mapping[Kind, Attachments]
) -> TransformSettings:
    """Return how every input is transformed."""
    pixels = _pixels(settings, source)
    usable = [number for number in range(len(source.entries)) if inputs.problems[number] is None] if attachments else []
    return TransformSettings(
        height=settings.size[0],
        width=settings.size[1],
        channels=pixels.channels,
        crop=settings.crop,
        codec=settings.codec if pixels.is_8_bit_image else "npy",
        background=settings.background,
        seed=settings.seed,
        resize=settings.resize,
        quality=settings.quality,
        buckets=bucket_sizes(settings.buckets),
        min_size=settings.min_size,
        no_upscale=settings.no_upscale,
        dtype=pixels.dtype,
        value_range=pixels.value_range,
        condition=condition_settings(attachments, settings, settings.resize, usable, settings.pages_as_channels),
        vector_dim=vector_dim(attachments, usable),
        pages_as_channels=settings.pages_as_channels,
    )
