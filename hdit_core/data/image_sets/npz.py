"""ADM's npz of samples: the array `arr_0`, uint8 `[N, H, W, C]`, read image by image from the zip, without pickle."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from io import BufferedIOBase
from math import prod
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import UInt8

from hdit_core.data.image.decode import LARGEST_IMAGE_PIXELS
from hdit_core.data.image_sets.image_set import ReadImage
from hdit_core.errors import DataError
from hdit_core.files import check_bounded

MEMBER = "arr_0.npy"
LARGEST_HEADER_BYTES = 10_000
CHUNK_BYTES = 1 << 20

_DAMAGE = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class ImageArray:
    """The images of an npz file; `identity` changes when they do."""

    def __init__(self, path: Path) -> None:
        """Check the header.

        Raises:
            DataError: it is not an npz, lacks arr_0, or arr_0 is not an array of images.
        """
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                member = archive.getinfo(MEMBER)
                check_bounded(member)
                with archive.open(member) as file:
                    self._shape = _image_shape(cast(BufferedIOBase, file), member.file_size)
        except KeyError:
            raise DataError(f"{path}: no images in it: expected arr_0, uint8 [N, H, W, 3], as in ADM's files") from None
        except _DAMAGE as problem:
            raise DataError(f"{path}: cannot be read as an npz of images ({problem})") from None
        self.count = self._shape[0]
        self.identity = f"{member.CRC:08x} {member.file_size}"

    def readers(self, numbers: Sequence[int]) -> Iterator[ReadImage]:
        """Yield functions that return the images of these numbers, ascending; each is read when it is reached."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(MEMBER) as file:
                content = cast(BufferedIOBase, file)  # ZipExtFile is one
                shape = _image_shape(content, archive.getinfo(MEMBER).file_size)
                if shape != self._shape:
                    raise ValueError("it has changed since it was opened")
                yield from self._readers(content, numbers)
        except _DAMAGE as problem:
            raise DataError(f"{self.path}: damaged array of images ({problem}); write it again") from None

    def _readers(self, file: BufferedIOBase, numbers: Sequence[int]) -> Iterator[ReadImage]:
        size_bytes, at = prod(self._shape[1:]), 0
        for number in numbers:
            if number >= self.count:
                return
            _skip(file, (number - at) * size_bytes)
            content, at = _read(file, size_bytes), number + 1
            yield partial(_as_image, content, self._shape[1:])
        if at == self.count:
            file.read(1)  # reads to the end of the member, so that its checksum is compared


def _image_shape(file: BufferedIOBase, size_bytes: int) -> tuple[int, int, int, int]:
    """Return N, H, W, C from the header of an array, which leaves the file at its first image."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # later versions allow headers of gigabytes
        raise ValueError(f"an array of version {version}")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=LARGEST_HEADER_BYTES)
    if by_columns and len(shape) > 1:
        raise ValueError("arr_0 is in Fortran order; save numpy.ascontiguousarray(images)")
    if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or min(shape) < 1:
        raise ValueError(f"arr_0 is {dtype} {shape}; expected uint8 [N, H, W, 3]")
    if shape[1] * shape[2] > LARGEST_IMAGE_PIXELS:
        raise ValueError(
            f"images of {shape[1]}x{shape[2]} are more than {LARGEST_IMAGE_PIXELS // 10**6} million pixels"
        )
    if not 0 <= size_bytes - prod(shape) <= LARGEST_HEADER_BYTES + 16:
        raise ValueError(f"{size_bytes:,} bytes are not an array {shape}")
    return shape


def _skip(file: BufferedIOBase, size_bytes: int) -> None:
    while size_bytes:
        size_bytes -= len(_read(file, min(size_bytes, CHUNK_BYTES)))


def _read(file: BufferedIOBase, size_bytes: int) -> bytes:
    content = file.read(size_bytes)
    if len(content) != size_bytes:
        raise EOFError("cut short")
    return content


def _as_image(content: bytes, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "H W C"]:
    return np.frombuffer(content, np.uint8).reshape(shape)
