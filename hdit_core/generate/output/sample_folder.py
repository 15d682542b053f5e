"""A folder of samples: `00000012.png` (or `.npy`) for image 12, and `samples.json` with the provenance.

The image grid is next to the folder, `faces-grid.png` for `faces`: other programs score every image in a folder.

Each image is written atomically. Rerunning the same command keeps the intact images, which are found by decoding them,
and generates the missing ones; a folder of samples with another provenance is refused. Several jobs may write into one
folder at once, preferably different images: the record lists those of all jobs, and is complete when the last one ends.
"""

import errno
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from hdit_core.data.format.retry_reads import retry_transient
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.loader.image_reader import largest_content
from hdit_core.diffusion.precondition import ModelSource
from hdit_core.errors import UsageError
from hdit_core.files import TEMPORARY, flush_folder, naming, read_bytes, read_json, remove_temporaries, write_atomic
from hdit_core.generate.index_ranges import MOST_RECORDED, read_ranges, write_ranges
from hdit_core.generate.output.sample_format import SampleFormat
from hdit_core.generate.pipeline import Samples
from hdit_core.generate.provenance import with_new_settings
from hdit_core.images import png_bytes, sheet
from hdit_core.locks import FolderLock
from hdit_core.recipe.diff import MOST_SHOWN, Difference, differences, show_value

RECORD = "samples.json"
OLD_GRID = "grid.png"  # where earlier versions wrote the grid, in the folder
logger = logging.getLogger("hdit")

SHORT_HASH = 12
MOST_GRID_IMAGES = 100
MOST_GRID_PIXELS = 16_000_000
LARGEST_RECORD_BYTES = 1 << 28
CONDITIONS_PATH = re.compile(r"conditions\.\w+\.path")  # for people: a hash says what is there
NO_GRID = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Errors of a grid, for which images are not given up: the folder may be all that is writable, as in a container."""

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC  # does not follow a link that somebody placed there


def grid_file(folder: Path) -> Path:
    """Return the file of a folder's image grid, next to the folder."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(f"{named.name}-grid.png")


def write_grid(folder: Path, png: bytes) -> None:
    """Write the image grid of a folder next to it, and remove one that an earlier version wrote into it."""
    (folder / OLD_GRID).unlink(missing_ok=True)
    path = grid_file(folder)
    try:
        write_atomic(path, png)
    except OSError as problem:
        if problem.errno not in NO_GRID:
            raise
        logger.warning("%s: no image grid: %s", path, problem.strerror)


def _changes(changed: Sequence[Difference], old_model: Any, new_model: Any) -> str:
    """Return the changed settings by their names, with old and new values; weights by their run, step and kind."""
    of_models = differences(old_model, new_model) if isinstance(old_model, dict) and new_model else []
    weights = [(key, a and a[:SHORT_HASH], b and b[:SHORT_HASH]) for key, a, b in changed if key == "weights_sha256"]
    rows = [*(of_models or weights if weights else []), *(row for row in changed if row[0] != "weights_sha256")]
    shown = [f"{key.removeprefix('settings.')} {show_value(a)} -> {show_value(b)}" for key, a, b in rows[:MOST_SHOWN]]
    more = [f"and {len(rows) - MOST_SHOWN} more"] if len(rows) > MOST_SHOWN else []
    return "; ".join([*shown, *more])


def recorded_images(folder: Path, provenance: dict[str, Any], model: Mapping[str, Any] | None = None) -> list[int]:
    """Return the indices of the images that the record of a folder lists.

    Args:
        folder: of the images.
        provenance: of the job that continues.
        model: the origin of its model, for the error.

    Raises:
        UsageError: its provenance is another job's, or it cannot be read.
    """
    path = folder / RECORD
    try:
        record = read_json(path, LARGEST_RECORD_BYTES)
        recorded = with_new_settings(record["origin"], provenance)
        images = read_ranges(record["images"], MOST_RECORDED) if "images" in record else []
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as problem:
        raise UsageError(
            f"{path}: cannot be read ({type(problem).__name__}); choose another folder with --out"
        ) from None
    changed = differences(recorded, provenance)
    if any(CONDITIONS_PATH.fullmatch(key) is None for key, _, _ in changed):
        changes = _changes(changed, record.get("model"), model)
        raise UsageError(
            f"{folder}: contains images with other settings (old -> new): {changes}. Choose another folder with --out"
        )
    return images


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write the record of a folder."""
    write_atomic(folder / RECORD, json.dumps(record, indent=1) + "\n")


class SampleFolder:
    """A new or resumed folder of samples; several ranks may write into one, each its own images."""

    def __init__(
        self,
        folder: Path,
        provenance: dict[str, Any],
        shape: tuple[int, int, int],
        pixels: PixelFormat | None = None,
        source: ModelSource | None = None,
        extractor: str | None = None,
    ) -> None:
        """Describe the folder; nothing on disk is touched yet.

        Args:
            folder: folder of the samples.
            provenance: what determines the pixels, see `provenance.py`; the key "origin" of the record.
            shape: height, width and channels of each image.
            pixels: their values; default: 8 bits.
            source: of the model, for people; the key "model" of the record.
            extractor: of the run's recipe, the default of `hdit eval-fid` for these samples; the key "extractor".
        """
        self.folder, self.shape = folder, shape
        self.format = SampleFormat(pixels or PixelFormat(shape[2]))
        self.provenance = provenance | self.format.provenance()
        self._model = {"model": source.to_json()} if source is not None and source.to_json() else {}
        self._about = self._model | ({} if extractor is None else {"extractor": extractor})
        self._lock, self._token = FolderLock(folder), secrets.token_hex(8)

    def begin(self) -> None:
        """Create the folder, or check that it is this job's; called by the main rank before any rank writes.

        Raises:
            UsageError: the folder contains something else, or samples with another provenance.
        """
        self.format.check()
        if not (self.folder / RECORD).is_file() and self.folder.exists() and not self._is_free():
            raise UsageError(f"{self.folder}: exists and is not a folder of samples; choose another with --out")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        try:
            with self._lock.exclusive_section():
                self._begin_record()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Release the lock on the folder; called by the main rank."""
        self._lock.release()

    def missing(self, indices: Sequence[int]) -> list[int]:
        """Return the indices of the images that are missing or damaged."""
        return [index for index in indices if self._intact(index) is None]

    def write(self, batch: Samples) -> None:
        """Write each image of a batch."""
        for index, content in zip(batch.indices, self.format.encode(batch.images), strict=True):
            path = self.path(index)
            temporary = path.with_name(f"{TEMPORARY}{path.name}-{self._token}")  # pids are not unique across machines
            with naming(path), os.fdopen(os.open(temporary, NEW_FILE, 0o666), "wb") as file:
                file.write(content)
            temporary.replace(path)  # not synced one by one: `missing` finds images that a power failure damages

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        return self.folder / f"{index:08d}.{self.format.suffix}"

    def image(self, index: int) -> Float[Tensor, "C H W"] | None:
        """Return an image in [-1, 1], None if it is missing or damaged."""
        pixels = self._intact(index)
        return None if pixels is None else self.format.to_float(pixels)

    def holds(self, index: int) -> bool:
        """Return whether an image's file exists; a symbolic link does not count."""
        path = self.path(index)
        try:
            status = retry_transient(path, path.lstat)
        except FileNotFoundError:
            return False
        most_bytes = largest_content(self.shape, self.format.pixels.itemsize)
        return stat.S_ISREG(status.st_mode) and status.st_size <= most_bytes

    def flush(self) -> None:
        """Sync all images to disk; called on each machine that wrote some."""
        os.sync()
        flush_folder(self.folder)

    def finish(
        self, indices: Sequence[int], class_of: Callable[[int], int | None], columns: tuple[int, int] | None = None
    ) -> dict[str, Any]:
        """Write the grid and the record of all images in the folder, release the lock, and return the record.

        The returned record lacks the list of classes. While other jobs are running, the record stays unfinished and
        their temporary files stay.

        Args:
            indices: the images that were generated now or found intact; those of other jobs stay in the record.
            class_of: returns the class of an image, None without one.
            columns: rows and columns of the grid; default: up to a hundred images, nearly square.
        """
        self.flush()
        with self._lock.exclusive_section():
            recorded = (
                recorded_images(self.folder, self.provenance, self._model.get("model"))
                if (self.folder / RECORD).is_file()
                else []
            )
            held = sorted({index for index in recorded if self.holds(index)}.union(indices))
            self._write_grid(held, class_of, columns)
            last = self._lock.is_exclusive()
            if last:
                remove_temporaries(self.folder)
            record = {
                "status": "complete" if last else "unfinished",
                "num_images": len(held),
                "images": write_ranges(held),
                **self._about,
                "origin": self.provenance,
            }
            class_ids = [class_of(index) for index in held]
            with_classes = any(class_id is not None for class_id in class_ids)
            write_record(self.folder, record | {"class_ids": class_ids if with_classes else None})
            self.leave()
        return record

    def _is_free(self) -> bool:
        """Return whether the folder contains nothing but a lock and temporary files."""
        return self.folder.is_dir() and all(
            path.name == FolderLock.NAME or path.name.startswith(TEMPORARY) for path in self.folder.iterdir()
        )

    def _is_abandoned(self) -> bool:
        """Return whether a job that ended before its first image left the record, and no other job is running."""
        own = {RECORD, OLD_GRID, FolderLock.NAME}
        names = {path.name for path in self.folder.iterdir()}
        return self._lock.is_exclusive() and all(name in own or name.startswith(TEMPORARY) for name in names)

    def _begin_record(self) -> None:
        if (self.folder / RECORD).is_file() and not self._is_abandoned():
            recorded_images(self.folder, self.provenance, self._model.get("model"))
        else:
            write_record(self.folder, {"status": "unfinished", **self._about, "origin": self.provenance})

    def _intact(self, index: int) -> Shaped[np.ndarray, "H W C"] | None:
        """Return the pixels of an image, None if it is missing or damaged."""
        if not self.holds(index):
            return None
        path = self.path(index)
        try:
            return self.format.decode(retry_transient(path, lambda: read_bytes(path)), self.shape[:2])
        except (FileNotFoundError, ValueError):
            return None

    def _write_grid(
        self, held: list[int], class_of: Callable[[int], int | None], columns: tuple[int, int] | None
    ) -> None:
        count = min(len(held), columns[0] * columns[1] if columns else MOST_GRID_IMAGES)
        first = held[: min(count, MOST_GRID_PIXELS // (self.shape[0] * self.shape[1]))]
        if columns and len(first) < count:
            most = MOST_GRID_PIXELS // 10**6
            logger.warning("--grid: %d of %d images are shown, which are %d megapixels", len(first), count, most)
        found = {index: self._intact(index) for index in first}
        images = {index: self.format.shown(pixels) for index, pixels in found.items() if pixels is not None}
        if not images:
            return
        captions = [str(class_id) for index in images if (class_id := class_of(index)) is not None]
        picture = sheet(np.stack(list(images.values())), captions or None, columns and columns[1])
        write_grid(self.folder, png_bytes(picture))
