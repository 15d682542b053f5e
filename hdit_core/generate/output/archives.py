"""Samples in one file, written sequentially: a webdataset tar, or an npz in ADM's layout."""

import io
import json
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hdit_core.data.format.shard import append_member, open_tar
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.errors import UsageError
from hdit_core.files import DigestingWriter, atomic_file, check_output, remove_temporaries
from hdit_core.generate.output.sample_format import SampleFormat
from hdit_core.generate.pipeline import Samples

LARGEST_NPZ_BYTES = 16 << 30
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # zip's earliest time: the same samples give the same bytes


class Stream:
    """A file of samples: written atomically, when the `with` block ends without an error."""

    def __init__(self, target: Path | io.IOBase, pixels: PixelFormat = PixelFormat(3)) -> None:
        """Write to a path, which must not exist, or to an open binary file such as stdout's.

        Args:
            target: path or file.
            pixels: the values of the samples.

        Raises:
            UsageError: the path exists.
        """
        self.format = SampleFormat(pixels)
        self.format.check()
        if isinstance(target, Path):
            check_output("--out", target, new=True)
        self.target = target
        self._stack = ExitStack()

    def __enter__(self) -> "Stream":
        target: Any = self.target
        if isinstance(target, Path):
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_temporaries(target.parent, target.name)  # a killed job's, as large as its images
            target = self._stack.enter_context(self._stack.enter_context(atomic_file(target)).open("wb"))
        self._open(target)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if problem is not None:
            self._discard()
            self._stack.__exit__(kind, problem, trace)
            return
        with self._stack:
            self._close()

    def _open(self, file: Any) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError

    def _discard(self) -> None:
        """Write nothing more: the file is given up."""


class TarStream(Stream):
    """A tar, written member by member."""

    def _open(self, file: Any) -> None:
        self._file = DigestingWriter(file)
        self._tar = open_tar(self._file)

    def append(self, key: str, suffix: str, content: bytes) -> None:
        """Append a file, `KEY.SUFFIX`."""
        append_member(self._tar, key, suffix, content)

    def _close(self) -> None:
        self._tar.close()

    def _discard(self) -> None:
        self._file.discard()


class SampleTar(TarStream):
    """A webdataset tar: `000000012.png` (or `.npy`), `.cls` where there are classes, and `.json` with the index."""

    def write(self, batch: Samples) -> None:
        """Append the images of a batch."""
        classes: Sequence[int | None] = batch.class_ids or [None] * len(batch.indices)
        for index, content, class_id in zip(batch.indices, self.format.encode(batch.images), classes, strict=True):
            key = f"{index:09d}"
            self.append(key, self.format.suffix, content)
            if class_id is not None:
                self.append(key, "cls", str(class_id).encode())
            self.append(key, "json", json.dumps({"number": index}).encode())


class SampleNpz(Stream):
    """An npz in ADM's layout: `arr_0` [N, H, W, C] of the training data's type, `arr_1` int64 [N] with the classes."""

    def __init__(
        self, target: Path | io.IOBase, count: int, shape: tuple[int, int, int], pixels: PixelFormat | None = None
    ) -> None:
        """Declare the number of images and their height, width and channels.

        Raises:
            UsageError: the path exists, or the file would be too large to load.
        """
        super().__init__(target, pixels or PixelFormat(shape[2]))
        self.shape = (count, *shape)
        size_bytes = int(np.prod(self.shape, dtype=np.int64)) * self.format.pixels.itemsize
        if size_bytes > LARGEST_NPZ_BYTES:
            raise UsageError(
                f"--out: an npz of {count:,} images would take {size_bytes / 2**30:,.0f} GiB, and readers load it "
                f"entirely; the limit is {LARGEST_NPZ_BYTES >> 30} GiB: use a folder or .tar"
            )
        self._classes: list[int] = []
        self._written = 0

    def _open(self, file: Any) -> None:
        self._zip = self._stack.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_STORED))
        images = self._zip.open(zipfile.ZipInfo("arr_0.npy", _EARLIEST), "w", force_zip64=True)
        self._images = self._stack.enter_context(images)
        header = {"descr": np.dtype(self.format.pixels.dtype).str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self._images, header)

    def write(self, batch: Samples) -> None:
        """Append the images of a batch."""
        self._images.write(np.ascontiguousarray(self.format.stored(batch.images)).data)
        self._written += len(batch.indices)
        self._classes.extend(batch.class_ids or [])

    def _close(self) -> None:
        self._images.close()
        assert self._written == self.shape[0], (self._written, self.shape)
        if self._classes:
            with self._zip.open(zipfile.ZipInfo("arr_1.npy", _EARLIEST), "w") as file:
                np.lib.format.write_array(file, np.array(self._classes, np.int64), allow_pickle=False)
