"""Benchmark of preparing and reading images, interleaved with lower bounds: plain Pillow loops that do the same.

The lower bound of preparation decodes, crops, resizes and encodes the same files in one process and writes nothing;
that of reading reads and decodes each encoded image from its own file.
"""

import io
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from hdit_core.bench.open_data import OpeningFigures, bench_opening
from hdit_core.bench.timing import Rounds, Task, Timing, interleaved, stopwatch
from hdit_core.data.loader.batch import load_batches
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.loader.order import images_at
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.errors import UsageError

logger = logging.getLogger("hdit")

ORDERED = (1_000, 100_000_000)
"""Sizes of the data sets whose shuffled order is timed."""

BATCH = 256


@dataclass(frozen=True)
class DataFigures:
    """The measurements of data preparation and loading; rates are images per second.

    Attributes:
        images: images prepared and read in each run.
        timings: by task: `prepare bound`, `prepare`, `prepare with 2` processes, `read bound`, `read`, and training
            `batches` with two workers, noise included.
        order_s: time to compute the shuffled position of one image, by the size of the data set.
        opening: of a large data set.
    """

    images: int
    size: tuple[int, int]
    timings: dict[str, Timing]
    order_s: dict[int, float]
    opening: OpeningFigures

    def rate(self, task: str) -> float:
        """Return the images per second of a task."""
        return self.images / self.timings[task].median_s

    @property
    def ratios(self) -> dict[str, float]:
        """The rate of each task as a fraction of its lower bound's, in one process or in two."""
        bounds = {"prepare": "prepare bound", "prepare with 2": "prepare bound", "read": "read bound"}
        return {task: self.rate(task) / self.rate(bound) for task, bound in bounds.items()}

    def to_json(self) -> dict[str, Any]:
        """Return all measurements as JSON."""
        return {
            "images": self.images,
            "size": list(self.size),
            "images_per_s": {task: self.rate(task) for task in self.timings},
            "of_bound": self.ratios,
            "times": {task: timing.to_json() for task, timing in self.timings.items()},
            "order_us_per_image": {str(count): seconds * 1e6 for count, seconds in self.order_s.items()},
            "opening": self.opening.to_json(),
        }


def make_pictures(folder: Path, count: int, height: int, width: int) -> Path:
    """Write JPEG files of multi-scale noise, about as expensive to decode and encode as photographs."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        picture = np.zeros((height, width, 3), np.float32)
        for cell in (1, 4, 16, 64):
            coarse = random.normal(0, 8 * cell**0.5, (-(-height // cell), -(-width // cell), 3)).astype(np.float32)
            picture += coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width]
        Image.fromarray((picture + 128).clip(0, 255).astype(np.uint8)).save(folder / f"{number:06}.jpg", quality=92)
    return folder


def prepare_barely(files: Sequence[Path], size: tuple[int, int]) -> None:
    """Decode, crop, resize and encode images with Pillow only: the lower bound of preparation."""
    for file in files:
        with Image.open(file) as picture:
            image = picture.convert("RGB")
        scale = min(image.height / size[0], image.width / size[1])
        top, left = (image.height - size[0] * scale) / 2, (image.width - size[1] * scale) / 2
        box = (left, top, left + size[1] * scale, top + size[0] * scale)
        small = image.resize((size[1], size[0]), Image.Resampling.LANCZOS, box=box)
        small.save(io.BytesIO(), "PNG", compress_level=6)


def read_barely(files: Sequence[Path]) -> None:
    """Read and decode image files with Pillow only: the lower bound of reading."""
    for file in files:
        np.asarray(Image.open(io.BytesIO(file.read_bytes())))


def _read_all(reader: ImageReader) -> None:
    for index in range(len(reader)):
        reader.read(index)


def _batches(reader: ImageReader, workers: int) -> None:
    plan = [range(start, min(start + 32, len(reader))) for start in range(0, len(reader), 32)]
    for _ in load_batches(reader, plan, seed=0, workers=workers):
        pass


def _preparing(source: Path, out: Path, size: tuple[int, int], workers: int) -> Task:
    timed = stopwatch(lambda: prepare_data(PrepareSettings(str(source), out, size, labels="none", workers=workers)))

    def run() -> float:
        shutil.rmtree(out, ignore_errors=True)
        return timed()

    return run


def _order_s(num_images: int) -> Callable[[], object]:
    numbers = np.arange(3 * num_images, 3 * num_images + BATCH)
    return lambda: [images_at(0, numbers, num_images) for _ in range(20)]


def bench_data(
    source: Path | None,
    size: tuple[int, int],
    *,
    images: int = 500,
    rounds: Rounds | None = None,
) -> DataFigures:
    """Measure preparing a folder of images and reading the result.

    Args:
        source: a folder of images that Pillow opens, searched recursively; None: synthetic images.
        size: height and width of the prepared images, px.

    Raises:
        UsageError: the folder has no images.
        DataError: they cannot be prepared.
    """
    rounds = rounds or Rounds(most=5)
    with TemporaryDirectory(prefix="hdit-bench-") as name:
        folder = Path(name)
        pictures = _copied(source, folder, images) if source else make_pictures(folder / "in", images, 500, 400)
        files = sorted(pictures.iterdir())
        logger.info(f"preparing {len(files)} images")
        preparing = {"prepare bound": stopwatch(lambda: prepare_barely(files, size))}
        preparing |= {
            task: _preparing(pictures, folder / f"out{workers}", size, workers)
            for task, workers in (("prepare", 1), ("prepare with 2", 2))
        }
        timings = interleaved(preparing, rounds, on_round=lambda done: logger.info(f"prepared {done} times"))
        timings |= interleaved(_reading(folder / "out1", folder / "bare"), rounds)
    ordering = interleaved({count: stopwatch(_order_s(count)) for count in ORDERED}, Rounds(most=50, limit_s=2.0))
    order_s = {count: timing.median_s / 20 / BATCH for count, timing in ordering.items()}
    logger.info("opening a data set of 1.3 million images")
    return DataFigures(len(files), size, timings, order_s, bench_opening())


def _copied(source: Path, folder: Path, images: int) -> Path:
    """Copy the first images of a folder into a new folder."""
    files = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in Image.registered_extensions()]
    if not files:
        raise UsageError(f"{source}: no images found; expected a folder of files such as PNG or JPEG")
    (folder / "in").mkdir()
    for number, path in enumerate(files[:images]):
        shutil.copy(path, folder / "in" / f"{number:06}{path.suffix}")
    return folder / "in"


def _reading(prepared: Path, bare: Path) -> dict[str, Task]:
    """Return the tasks that read a prepared data set, and their lower bound on the same encoded images in files."""
    reader = ImageReader(prepared, cache_bytes=0)
    bare.mkdir()
    for index in range(len(reader)):
        (bare / f"{index:06}.png").write_bytes(reader.encoded(index))
    files = sorted(bare.iterdir())
    return {
        "read bound": stopwatch(lambda: read_barely(files)),
        "read": stopwatch(lambda: _read_all(reader)),
        "batches": stopwatch(lambda: _batches(reader, 2)),
    }
