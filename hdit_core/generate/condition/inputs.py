"""Input images with their names: from a folder, an archive, a prepared data set, one file, or a tar on stdin.

Names are untrusted and become file names: those that lead out of the output folder, or that no file can have, are
refused.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hdit_core.data.format.retry_reads import read_image_file
from hdit_core.data.image.arrays.decode_picture import CLIPPED, OtherFormatError, decode_picture
from hdit_core.data.image.arrays.npy import is_npy, read_npy
from hdit_core.data.image.arrays.picture import Picture, as_array
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.image.decode import FIRST_FRAME, LARGEST_IMAGE_PIXELS, UnusableImageError, decode_image
from hdit_core.data.image_sets.tar_stream import read_tar, stdin_bytes
from hdit_core.data.sources.attachments import Attachments, AttachmentSource
from hdit_core.data.sources.file_filter import choose_inputs, is_hidden, is_text
from hdit_core.data.sources.resolve import open_source
from hdit_core.data.sources.source import Source, fetch, without_ending
from hdit_core.errors import DataError
from hdit_core.files import STDIN_NAME
from hdit_core.images import to_float

OPAQUE = 128  # smallest alpha of a pixel that is kept
PAINTED = 128  # smallest grey level of a mask that means "fill in"
LONGEST_NAME_BYTES = 200  # of a part of a name: file systems take 255, and temporary names are longer
LONGEST_PATH_BYTES = 3000  # of a whole name: systems take 4096, with the folder of the outputs
WHITE = (255, 255, 255)

logger = logging.getLogger("hdit")


@dataclass(frozen=True)
class DecodedInput:
    """The picture in an input file.

    Attributes:
        picture: as decoded, not resized.
        pixels: the format of its values.
        remarks: on what was done to it.
    """

    picture: Picture
    pixels: PixelFormat
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class InputImage:
    """The content of an input file.

    Attributes:
        name: relative to the source, with forward slashes.
        content: of the file.
        index: of the file in its source.
    """

    name: str
    content: bytes
    index: int = 0

    @property
    def number(self) -> int:
        """The number of the image for random streams: a hash of its name, independent of other inputs."""
        return number_of(self.name)

    @property
    def sha256(self) -> str:
        """Hash of the content."""
        return hashlib.sha256(self.content).hexdigest()

    def picture(self, pixels: PixelFormat) -> DecodedInput:
        """Return the picture, in the full depth of a format.

        Args:
            pixels: of the data set that the network was trained on. Arrays may also have floats from -1 to 1, and
                integers of all values of their type where the format has no range.

        Raises:
            UnusableImageError: it is not an image, has other channels or values, or is damaged.
        """
        if is_npy(self.content) and (array := _from_array(self.content, pixels)) is not None:
            return array
        try:
            decoded = decode_picture(self.content, pixels, WHITE, pages_as_channels=not pixels.is_8_bit_image)
        except OtherFormatError as problem:
            takes = f"{pixels.channels} channels of {pixels.dtype}"
            raise OtherFormatError(problem.found, f"; the network takes {takes}") from None
        return DecodedInput(decoded.picture, pixels, decoded.remarks)

    def pixels(self, pixels: PixelFormat) -> Float[Tensor, "C H W"]:
        """Return the image in [-1, 1], in the full depth of the format; arguments and errors as for `picture`."""
        decoded = self.picture(pixels)
        for remark in (FIRST_FRAME, CLIPPED):
            if remark in decoded.remarks:
                logger.warning("%s: %s", self.name, remark)
        return to_float(np.array(as_array(decoded.picture)[None]), decoded.pixels.ranges)[0]

    def transparent(self) -> Bool[Tensor, "1 H W"] | None:
        """Return where the image is transparent; None if it is opaque everywhere."""
        if is_npy(self.content):
            return None
        on_black, on_white = (
            np.asarray(decode_image(self.content, 1, (level, level, level)).image).astype(np.int16)
            for level in (0, 255)
        )
        transparent = on_white - on_black > 255 - OPAQUE
        return torch.from_numpy(transparent)[None] if transparent.any() else None

    def painted(self) -> Bool[Tensor, "1 H W"]:
        """Return where a mask is white; transparent pixels are not."""
        grey = decode_image(self.content, 1, (0, 0, 0)).image
        return torch.from_numpy(np.asarray(grey) >= PAINTED)[None]


def number_of(name: str) -> int:
    """Return the number of an image for random streams, from its name without ending."""
    key = without_ending(name).encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def _from_array(content: bytes, pixels: PixelFormat) -> DecodedInput | None:
    """Return an array of floats from -1 to 1, or of all values of an integer type; None if it has the format's."""
    try:
        array = read_npy(content)
    except ValueError as problem:
        raise UnusableImageError(str(problem)) from None
    if pixels.dtype == "float32" or (array.dtype.kind != "f" and pixels.value_range):
        return None
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] != pixels.channels or min(array.shape) < 1:
        shape = "x".join(map(str, array.shape))
        raise UnusableImageError(f"an array of {shape} numbers; expected height x width x {pixels.channels}")
    if array.shape[0] * array.shape[1] > LARGEST_IMAGE_PIXELS:
        raise UnusableImageError(f"more than {LARGEST_IMAGE_PIXELS // 10**6} million pixels")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and np.abs(array).max() <= 1):
            raise UnusableImageError("numbers beyond [-1, 1], NaN or infinity; expected floats from -1 to 1")
        return DecodedInput(array.astype(np.float32), PixelFormat(pixels.channels, "float32", ((-1.0, 1.0),)))
    if array.dtype == np.uint8:
        return DecodedInput(array, PixelFormat(pixels.channels, "uint8"))
    if array.dtype == np.uint16:
        return DecodedInput(array, PixelFormat(pixels.channels, "uint16"))
    raise UnusableImageError(f"numbers of type {array.dtype}; expected uint8, uint16 or floats from -1 to 1")


@dataclass(frozen=True)
class NamedInputs:
    """Inputs that can be listed, in the order of the source.

    Attributes:
        location: where they come from.
        names: of all of them.
    """

    location: str
    names: Sequence[str]
    _numbers: Sequence[int]
    _source: Source
    _conditions: Attachments | None = None

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> InputImage:
        """Return an input by its index in `names`.

        Raises:
            UnusableImageError: it cannot be read.
        """
        number = self._numbers[index]
        if (problem := self._source.entries[number].problem) is not None:
            raise UnusableImageError(problem)
        try:
            content = fetch(self.names[index], partial((self._conditions or self._source).fetch, number))
            data = read_image_file(content) if isinstance(content, Path) else content
        except ValueError as error:
            raise UnusableImageError(f"cannot be read ({error})") from None
        if data is None:
            raise UnusableImageError("has no condition image, which others of the source have")
        return InputImage(self.names[index], data, index)


def open_inputs(location: str, conditions: bool = False, outputs: Path | None = None) -> NamedInputs:
    """Return the images of a folder, an archive, a prepared data set, or one file; hidden and text files are skipped.

    Args:
        location: where they are.
        conditions: whether to return the condition images of a data set or of shards that have them, not the images.
        outputs: a folder whose files are not inputs; it may be inside of `location`.

    Raises:
        UsageError: there is nothing at `location`.
        DataError: it is damaged, or holds no images.
    """
    source = open_source(location, read_labels=False)
    names = [entry.name for entry in source.entries]
    chosen = choose_inputs(names, location, is_folder=source.kind == "folder")
    own = _folder_inside(Path(location), outputs) if source.kind == "folder" and outputs is not None else None
    numbers = [
        number
        for number, is_input in enumerate(chosen)
        if is_input and (own is None or not names[number].startswith(own))
    ]
    if not numbers:
        raise DataError(f"{location}: holds no images")
    stored = source.attachments("condition") if conditions and isinstance(source, AttachmentSource) else None
    return NamedInputs(location, [names[number] for number in numbers], numbers, source, stored)


def _folder_inside(folder: Path, inner: Path) -> str | None:
    """Return the beginning of the names of an inner folder's files, such as `"out/"`; None if it is not inside."""
    outer, inner = folder.resolve(), inner.resolve()
    return f"{inner.relative_to(outer).as_posix()}/" if inner.is_relative_to(outer) and inner != outer else None


def stream_inputs() -> Iterator[InputImage]:
    """Yield the images of a tar on stdin.

    Raises:
        DataError: it is not a complete tar.
    """
    for index, (name, content) in enumerate(read_tar(stdin_bytes(), _is_wanted, STDIN_NAME)):
        yield InputImage(name, content, index)


def _is_wanted(name: str) -> bool:
    return not (is_hidden(name) or is_text(name))


def name_problem(name: str) -> str | None:
    """Return why a name cannot be that of an output file, None if it can."""
    parts = name.split("/")
    if not name or name.startswith("/") or any(part in ("", ".", "..") for part in parts):
        return "its name leads outside the output folder"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "its name has control characters such as a newline"
    sizes_bytes = [len(part.encode(errors="surrogateescape")) for part in parts]
    if max(sizes_bytes) > LONGEST_NAME_BYTES:
        return f"its name has a part of {max(sizes_bytes)} bytes; the most are {LONGEST_NAME_BYTES}"
    if sum(sizes_bytes) + len(parts) > LONGEST_PATH_BYTES:
        return f"its name has {sum(sizes_bytes) + len(parts)} bytes; the most are {LONGEST_PATH_BYTES}"
    return None


def output_name(name: str, ending: str) -> str:
    """Return the name of the output for an input."""
    return without_ending(name) + ending


def path_of(folder: Path, name: str) -> Path:
    """Return the file of a name in a folder."""
    return folder.joinpath(*name.split("/"))
