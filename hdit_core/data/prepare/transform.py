"""Transforms one input, an image with its condition image, vector and caption, to a sample of a shard."""

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from hdit_core.data.format.duplicates import image_hashes
from hdit_core.data.format.manifest_entries import Channels, Codec
from hdit_core.data.format.optional_rows import VECTOR_DTYPE
from hdit_core.data.format.pixel_stats import Moments, picture_moments
from hdit_core.data.format.retry_reads import read_image_file
from hdit_core.data.format.shard import LARGEST_MEMBER_BYTES, Sample, StoredCondition
from hdit_core.data.image.arrays.decode_picture import DecodedPicture, OtherFormatError, decode_picture
from hdit_core.data.image.arrays.picture import Picture, encode_picture, frame, picture_size
from hdit_core.data.image.arrays.pixel_format import Dtype, PixelFormat, ValueRange
from hdit_core.data.image.codec import JPEG_QUALITY, SUFFIXES
from hdit_core.data.image.resize import (
    Crop,
    Geometry,
    ImageSize,
    Resize,
    ResizeFilter,
    nearest_size,
    random_crop_position,
)
from hdit_core.data.image.unusable import UnusableImageError
from hdit_core.data.sources.labels.text_encoding import decode_text


@dataclass(frozen=True)
class ConditionSettings:
    """How every condition image is transformed."""

    pixels: PixelFormat
    resize: ResizeFilter

    @property
    def codec(self) -> Codec:
        """The format in the shards, which is lossless."""
        return "png" if self.pixels.is_8_bit_image else "npy"


@dataclass(frozen=True)
class TransformSettings:
    """How every image is transformed."""

    height: int
    width: int
    channels: Channels
    crop: Crop
    codec: Codec
    background: tuple[int, int, int]
    seed: int
    resize: Resize = "lanczos"
    quality: int = JPEG_QUALITY  # of JPEG only
    buckets: tuple[ImageSize, ...] = ()  # sizes to choose from; empty: height and width above
    min_size: int = 0  # smaller images are left out: shorter side in pixels
    no_upscale: bool = False  # leave out images that would have to be enlarged
    dtype: Dtype = "uint8"
    value_range: tuple[ValueRange, ...] = ()  # see `PixelFormat`
    condition: ConditionSettings | None = None  # None: without condition images
    vector_dim: int = 0  # 0: without vectors
    pages_as_channels: bool = False  # of a TIFF with several pages, of images and condition images

    @property
    def pixels(self) -> PixelFormat:
        """The format of the images."""
        return PixelFormat(self.channels, self.dtype, self.value_range)

    def for_shape(self, height: int, width: int) -> "TransformSettings":
        """Return the geometry for an image of this shape."""
        if not self.buckets:
            return self
        height, width = nearest_size(self.buckets, height, width)
        return replace(self, height=height, width=width, buckets=())


GREY_IN_RGB = "grayscale, stored as RGB"
COLOR_TO_GREY = "color converted to grayscale"


@dataclass(frozen=True, slots=True)
class InputImage:
    """One input, from which a sample is made."""

    number: int  # index among all inputs
    name: str
    label: int
    class_name: str | None
    content: bytes | Path | str  # the file, its path, or the reason why it cannot be read
    condition: bytes | Path | None = None
    vector: bytes | None = None  # float32, little-endian
    caption: bytes | Path | None = None


@dataclass(frozen=True, slots=True)
class ConvertedImage:
    """A sample, with remarks for the user and the moments of its stored pixels."""

    sample: Sample
    remarks: tuple[str, ...]
    moments: Moments


class ExcludedError(Exception):
    """An image is excluded by the settings; the message is the reason."""


def _color_remark(decoded: DecodedPicture, transform: TransformSettings) -> tuple[str, ...]:
    """Return the remark on an image whose file has other colors than the set: none in RGB, or some in grayscale."""
    if decoded.is_grey is None or decoded.is_grey == (transform.channels == 1):
        return ()
    return (GREY_IN_RGB,) if decoded.is_grey else (COLOR_TO_GREY,)


def _size_remark(size: ImageSize, transform: TransformSettings) -> tuple[str, ...]:
    """Return the remark on an image that is upscaled.

    Raises:
        ExcludedError: the settings exclude its size.
    """
    shown = f"{size[0]}x{size[1]} pixels"
    if min(size) < transform.min_size:
        raise ExcludedError(f"{shown}, smaller than --min-size {transform.min_size}")
    smaller = (size[0] < transform.height, size[1] < transform.width)
    if not (all(smaller) if transform.crop == "fit" else any(smaller)):
        return ()
    if transform.no_upscale:
        raise ExcludedError(f"{shown}, would be upscaled to {transform.height}x{transform.width} (--no-upscale)")
    return ("upscaled",)


def _stored_moments(framed: Picture, encoded: bytes, transform: TransformSettings) -> Moments:
    """Return the moments of the stored pixels, which JPEG changes."""
    if transform.codec == "jpeg":
        return picture_moments(Image.open(io.BytesIO(encoded), formats=["JPEG"]), transform.pixels)
    return picture_moments(framed, transform.pixels)


def _geometry(size: ImageSize, transform: TransformSettings, name: str) -> Geometry:
    position = None if transform.crop == "fit" else (0.5, 0.5)
    if transform.crop == "random":
        position = random_crop_position(transform.seed, name)
    return Geometry(size, (transform.height, transform.width), position)


def _check_fits(condition: ImageSize, image: ImageSize) -> None:
    """Refuse a condition image whose aspect ratio differs from the image's by more than rounding."""
    (height, width), (own_height, own_width) = image, condition
    if abs(own_height * width - own_width * height) > max(height, width):  # one pixel of the condition image
        raise UnusableImageError(
            f"its condition image has {own_height}x{own_width} pixels, the image {height}x{width}; expected the same "
            "size, or a size of the same shape"
        )


def _content(content: bytes | Path) -> bytes:
    return read_image_file(content) if isinstance(content, Path) else content


@dataclass(frozen=True)
class _Framed:
    """A picture in the target size, the hash of its original file, and remarks."""

    picture: Picture
    sha256: str
    remarks: tuple[str, ...]


def _framed_condition(content: bytes | Path, geometry: Geometry, transform: TransformSettings) -> _Framed:
    """Return the condition image of an image.

    Raises:
        UnusableImageError: it is unusable, or its shape differs from its image's.
    """
    settings = transform.condition
    assert settings is not None  # there is a condition image
    try:
        data = _content(content)
        decoded = decode_picture(data, settings.pixels, transform.background, transform.pages_as_channels)
    except OtherFormatError as problem:
        advice = problem.advice.replace("--", "--condition-")
        raise UnusableImageError(f"its condition image: {problem.found}{advice}") from None
    except UnusableImageError as problem:
        raise UnusableImageError(f"its condition image: {problem}") from None
    _check_fits(picture_size(decoded.picture), geometry.image)
    picture = frame(decoded.picture, geometry, settings.resize, settings.pixels, transform.background)
    remarks = tuple(f"condition image {remark}" for remark in decoded.remarks)
    return _Framed(picture, hashlib.sha256(data).hexdigest(), remarks)


def _checked_vector(vector: bytes | None, dim: int) -> bytes:
    """Return a vector after checking its length and that it is finite; nothing if the set has none."""
    if not dim:
        return b""
    numbers = np.frombuffer(vector or b"", VECTOR_DTYPE)
    if len(numbers) != dim:
        raise UnusableImageError(f"its vector has {len(numbers)} numbers, expected {dim} as the first one has")
    if not np.isfinite(numbers).all():
        raise UnusableImageError(f"its vector has {numbers[~np.isfinite(numbers)][0]} at {_first_bad(numbers)}")
    return numbers.tobytes()


def _first_bad(numbers: np.ndarray) -> str:
    return f"position {int(np.flatnonzero(~np.isfinite(numbers))[0])}; expected finite numbers"


def _caption(content: bytes | Path | None) -> str | None:
    """Return a caption without surrounding spaces, None if there is none.

    Raises:
        UnusableImageError: it is too long, or not text.
    """
    if content is None:
        return None
    data = _content(content)
    if len(data) > LARGEST_MEMBER_BYTES:
        raise UnusableImageError(f"its caption has {len(data):,} bytes, more than {LARGEST_MEMBER_BYTES >> 20} MiB")
    try:
        return decode_text(data).strip() or None
    except ValueError as problem:
        raise UnusableImageError(f"its caption: {problem}") from None


def transform_input(task: InputImage, content: bytes | Path, transform: TransformSettings) -> ConvertedImage:
    """Return the sample of an input.

    Raises:
        ExcludedError: the settings exclude it.
        UnusableImageError, OSError: it is not usable.
    """
    data = _content(content)
    decoded = decode_picture(data, transform.pixels, transform.background, transform.pages_as_channels)
    size = picture_size(decoded.picture)
    transform = transform.for_shape(*size)
    remarks = (*decoded.remarks, *_color_remark(decoded, transform), *_size_remark(size, transform))
    geometry = _geometry(size, transform, task.name)
    framed = frame(decoded.picture, geometry, transform.resize, transform.pixels, transform.background)
    parts = [_Framed(framed, hashlib.sha256(data).hexdigest(), remarks)]
    if transform.condition:
        assert task.condition is not None
        parts.append(_framed_condition(task.condition, geometry, transform))
    encoded = encode_picture(framed, transform.codec, transform.quality)
    sample = Sample(
        number=task.number,
        image=encoded,
        suffix=SUFFIXES[transform.codec],
        label=task.label,
        about=_about(task, parts),
        size=(transform.height, transform.width),
        hashes=image_hashes([part.sha256 for part in parts], [part.picture for part in parts]),
        condition=_stored_condition(parts, transform),
        vector=_checked_vector(task.vector, transform.vector_dim),
        caption=_caption(task.caption),
    )
    all_remarks = tuple(remark for part in parts for remark in part.remarks)
    return ConvertedImage(sample, all_remarks, _stored_moments(framed, encoded, transform))


def _stored_condition(parts: list[_Framed], transform: TransformSettings) -> StoredCondition | None:
    if transform.condition is None:
        return None
    codec = transform.condition.codec
    return StoredCondition(encode_picture(parts[1].picture, codec, transform.quality), SUFFIXES[codec])


def _about(task: InputImage, parts: list[_Framed]) -> dict[str, str]:
    """Return the content of a sample's .json."""
    about = {"name": task.name, "sha256": parts[0].sha256}
    if task.class_name is not None:
        about["class"] = task.class_name
    if len(parts) > 1:
        about["condition_sha256"] = parts[1].sha256
    return about
