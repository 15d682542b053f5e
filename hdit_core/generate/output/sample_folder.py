"""Samples as a folder that can be gone on with: `00000012.png` for image 12, `samples.json`, and `grid.png`.

An image is written whole or not at all. The same command again keeps what is intact, which it finds by decoding it, and
draws what is missing; a folder of samples that were made from anything else is refused. Several jobs may draw into one
at once, best each its own images: the record has those of all, and is complete when the last of them ends.
"""

import json
import os
import secrets
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hdit_core.data.image.codec import decode
from hdit_core.data.loader.reader import largest_content
from hdit_core.errors import UsageError
from hdit_core.files import TEMPORARY, flush_folder, naming, read_json, remove_temporaries, write_atomic
from hdit_core.generate.generate import Generated
from hdit_core.generate.index_ranges import read_ranges, write_ranges
from hdit_core.generate.provenance import with_new_settings
from hdit_core.images import png_bytes, sheet, to_uint8
from hdit_core.locks import FolderLock
from hdit_core.recipe.diff import describe_differences, differences

RECORD = "samples.json"
GRID = "grid.png"
MOST_GRID_IMAGES = 100
MOST_GRID_PIXELS = 16_000_000
LARGEST_RECORD_BYTES = 1 << 28
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC  # never through a link that somebody put there


class SampleFolder:
    """A folder of samples, begun or gone on with; several ranks may write into one, each its own images."""

    def __init__(self, folder: Path, origin: dict[str, Any], shape: tuple[int, int, int]) -> None:
        """Name a folder; nothing is touched yet.

        Args:
            folder: where the samples go.
            origin: what the samples are made from, see `origin.py`.
            shape: height, width and channels of each image.
        """
        self.folder, self.origin, self.shape = folder, origin, shape
        self._claim, self._mark = FolderLock(folder), secrets.token_hex(8)

    def begin(self) -> None:
        """Make the folder, or recognise it as this job's; of several ranks the main one does it, before any writes.

        Raises:
            UsageError: the folder holds something else, or samples that were made from something else.
        """
        if not (self.folder / RECORD).is_file() and self.folder.exists() and not self._is_free():
            raise UsageError(f"{self.folder}: exists and is not a folder of samples; give another with --out")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._claim.acquire()
        try:
            with self._claim.exclusive_section():
                self._begin_record()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Let others know that this job is not at work here any more; of several ranks the main one does it."""
        self._claim.release()

    def missing(self, numbers: Sequence[int], on_checked: Callable[[int], None] | None = None) -> list[int]:
        """Return those of the images that are not there or not intact.

        Args:
            numbers: of images.
            on_checked: told now and then how many were looked at.
        """
        missing = []
        for place, number in enumerate(numbers):
            if self._intact(number) is None:
                missing.append(number)
            if on_checked and place % 100 == 0:
                on_checked(place)
        return missing

    def write(self, batch: Generated) -> None:
        """Write each image of a batch."""
        for number, image in zip(batch.indices, to_uint8(batch.images), strict=True):
            path = self.path(number)
            temporary = path.with_name(f"{TEMPORARY}{path.name}-{self._mark}")  # another machine's job may have our pid
            with naming(path), os.fdopen(os.open(temporary, NEW_FILE, 0o666), "wb") as file:
                file.write(png_bytes(image))
            temporary.replace(path)  # not flushed each: what a power failure leaves is found by decoding it

    def path(self, number: int) -> Path:
        """Return the file of an image."""
        return self.folder / f"{number:08d}.png"

    def holds(self, number: int) -> bool:
        """Return whether there is a file of an image; a link is none, wherever it leads."""
        try:
            found = self.path(number).lstat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size <= largest_content(self.shape)

    def flush(self) -> None:
        """Have all images on the disk; each machine that wrote some calls this."""
        os.sync()
        flush_folder(self.folder)

    def finish(
        self, numbers: Sequence[int], classes: Callable[[int], int | None], columns: tuple[int, int] | None = None
    ) -> dict[str, Any]:
        """Draw the grid, write the record of all that the folder holds, and return what it says but for the classes.

        The job is no longer at work then. While others are, the record stays unfinished, and what they are writing
        stays as it is.

        Args:
            numbers: the images that were drawn now or found intact; those of other jobs stay in the record.
            classes: the class of an image, None without one.
            columns: rows and columns of the grid; default: up to a hundred images, as square as can be.
        """
        self.flush()
        with self._claim.exclusive_section():
            of_others = self._recorded() if (self.folder / RECORD).is_file() else []
            held = sorted({number for number in of_others if self.holds(number)}.union(numbers))
            self._draw_grid(held, classes, columns)
            last = self._claim.is_exclusive()
            if last:
                remove_temporaries(self.folder)
            record = {
                "status": "complete" if last else "unfinished",
                "num_images": len(held),
                "images": write_ranges(held),
                "origin": self.origin,
            }
            class_ids = [classes(number) for number in held]
            with_classes = any(class_id is not None for class_id in class_ids)
            self._write_record(record | {"class_ids": class_ids if with_classes else None})
            self.leave()
        return record

    def _is_free(self) -> bool:
        """Return whether there is nothing in the folder but what jobs leave or have at their very beginning."""
        return self.folder.is_dir() and all(
            path.name == FolderLock.NAME or path.name.startswith(TEMPORARY) for path in self.folder.iterdir()
        )

    def _begin_record(self) -> None:
        if (self.folder / RECORD).is_file():
            self._recorded()
        else:
            self._write_record({"status": "unfinished", "origin": self.origin})

    def _write_record(self, record: dict[str, Any]) -> None:
        write_atomic(self.folder / RECORD, json.dumps(record, indent=1) + "\n")

    def _recorded(self) -> list[int]:
        """Return the images that the record names, which is this job's.

        Raises:
            UsageError: it is another's, or cannot be read.
        """
        path = self.folder / RECORD
        try:
            record = read_json(path, LARGEST_RECORD_BYTES)
            there = with_new_settings(record["origin"], self.origin)
            images = read_ranges(record["images"]) if "images" in record else []
        except (OSError, ValueError, KeyError, TypeError, UsageError) as problem:
            raise UsageError(
                f"{path}: cannot be read ({type(problem).__name__}); give another folder with --out"
            ) from None
        if found := differences(there, self.origin):
            changes = describe_differences(found, "there", "now")
            raise UsageError(
                f"{self.folder}: holds samples with other settings: {changes}. Give another folder with --out"
            )
        return images

    def _intact(self, number: int) -> UInt8[np.ndarray, "H W C"] | None:
        if not self.holds(number):
            return None
        try:
            return decode(self.path(number).read_bytes(), "png", self.shape)
        except (OSError, ValueError):
            return None

    def _draw_grid(
        self, held: list[int], classes: Callable[[int], int | None], columns: tuple[int, int] | None
    ) -> None:
        room = columns[0] * columns[1] if columns else MOST_GRID_IMAGES
        first = held[: min(room, MOST_GRID_PIXELS // (self.shape[0] * self.shape[1]))]
        found = [(number, image) for number in first if (image := self._intact(number)) is not None]
        if not found:
            return
        captions = [str(classes(number)) for number, _ in found]
        shown = None if "None" in captions else captions
        picture = sheet(np.stack([image for _, image in found]), shown, columns and columns[1])
        write_atomic(self.folder / GRID, png_bytes(picture))
