"""Converts each input to a sample of a shard, or to a reject with its reason; in this process or in several."""

import hashlib
import io
import os
import signal
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path

from PIL import Image

from hdit_core.data.format.entries import Channels, Codec
from hdit_core.data.format.hashes import image_hashes
from hdit_core.data.format.pixel_stats import Moments, image_moments
from hdit_core.data.format.shard import Sample
from hdit_core.data.image.codec import JPEG_QUALITY, SUFFIXES, encode
from hdit_core.data.image.decode import UnusableImageError, decode_image, read_file
from hdit_core.data.image.resize import (
    Crop,
    ImageSize,
    Resize,
    crop_and_resize,
    nearest_size,
    pad_and_resize,
    random_crop_position,
)
from hdit_core.errors import DataError

BATCH_INPUTS = 8  # sent to a process at once
BATCH_BYTES = 32 << 20  # fewer inputs if they are large: those of an archive are sent with their content
MOST_WAITING_BYTES = 256 << 20  # in all batches in progress


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

    def for_shape(self, height: int, width: int) -> "TransformSettings":
        """Return how an image of this shape is transformed."""
        if not self.buckets:
            return self
        height, width = nearest_size(self.buckets, height, width)
        return replace(self, height=height, width=width, buckets=())


@dataclass(frozen=True, slots=True)
class InputImage:
    """One input on its way to a sample."""

    number: int  # position among all inputs
    name: str
    label: int
    class_name: str | None
    content: bytes | Path | str  # the file, its path, or why it cannot be read


@dataclass(frozen=True, slots=True)
class RejectedInput:
    """An input that gives no sample."""

    number: int
    name: str
    reason: str
    is_bad: bool = True  # False: a usable image that the user's settings exclude


@dataclass(frozen=True, slots=True)
class ConvertedImage:
    """A sample, with remarks for the user and the moments of its stored pixels."""

    sample: Sample
    remarks: tuple[str, ...]
    moments: Moments


class _ExcludedError(Exception):
    """The settings exclude an image, for the reason in the message."""


def _size_remark(image: Image.Image, transform: TransformSettings) -> tuple[str, ...]:
    """Return the remark on an image that is upscaled.

    Raises:
        _ExcludedError: the settings exclude its size.
    """
    size = f"{image.height}x{image.width} pixels"
    if min(image.size) < transform.min_size:
        raise _ExcludedError(f"{size}, smaller than --min-size {transform.min_size}")
    smaller = (image.height < transform.height, image.width < transform.width)
    if not (all(smaller) if transform.crop == "fit" else any(smaller)):
        return ()
    if transform.no_upscale:
        raise _ExcludedError(f"{size}, would be upscaled to {transform.height}x{transform.width} (--no-upscale)")
    return ("upscaled",)


def _stored_moments(framed: Image.Image, encoded: bytes, transform: TransformSettings) -> Moments:
    """Return the moments of the pixels that a reader gets: after JPEG, others than those that were encoded."""
    if transform.codec == "jpeg":
        return image_moments(Image.open(io.BytesIO(encoded), formats=["JPEG"]))
    return image_moments(framed)


def _frame(image: Image.Image, transform: TransformSettings, name: str) -> Image.Image:
    if transform.crop == "fit":
        return pad_and_resize(image, transform.height, transform.width, transform.background, transform.resize)
    position = random_crop_position(transform.seed, name) if transform.crop == "random" else (0.5, 0.5)
    return crop_and_resize(image, transform.height, transform.width, position, transform.resize)


def _sample(task: InputImage, data: bytes, transform: TransformSettings) -> ConvertedImage:
    decoded = decode_image(data, transform.channels, transform.background)
    image = decoded.image
    transform = transform.for_shape(image.height, image.width)
    remarks = (*decoded.remarks, *_size_remark(image, transform))
    about = {"name": task.name, "sha256": hashlib.sha256(data).hexdigest()}
    if task.class_name is not None:
        about["class"] = task.class_name
    framed = _frame(image, transform, task.name)
    sample = Sample(
        number=task.number,
        image=encode(framed, transform.codec, transform.quality),
        suffix=SUFFIXES[transform.codec],
        label=task.label,
        about=about,
        size=(transform.height, transform.width),
        hashes=image_hashes(about["sha256"], framed),
    )
    return ConvertedImage(sample, remarks, _stored_moments(framed, sample.image, transform))


def convert(task: InputImage, transform: TransformSettings) -> ConvertedImage | RejectedInput:
    """Return the sample of an input, or the reason why there is none."""
    if isinstance(task.content, str):
        return RejectedInput(task.number, task.name, task.content)
    try:
        return _sample(task, read_file(task.content) if isinstance(task.content, Path) else task.content, transform)
    except _ExcludedError as reason:
        return RejectedInput(task.number, task.name, str(reason), is_bad=False)
    except UnusableImageError as problem:
        return RejectedInput(task.number, task.name, str(problem))
    except OSError as problem:
        return RejectedInput(task.number, task.name, f"cannot be read: {problem.strerror or type(problem).__name__}")


def _convert_batch(tasks: list[InputImage], transform: TransformSettings) -> list[ConvertedImage | RejectedInput]:
    return [convert(task, transform) for task in tasks]


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent is killed; else a worker would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _size_bytes(task: InputImage) -> int:
    return len(task.content) if isinstance(task.content, bytes) else 0


def _input_batches(tasks: Iterable[InputImage]) -> Iterator[list[InputImage]]:
    batch: list[InputImage] = []
    for task in tasks:
        batch.append(task)
        if len(batch) == BATCH_INPUTS or sum(map(_size_bytes, batch)) >= BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _is_full(waiting: Collection[tuple[object, list[InputImage]]], workers: int) -> bool:
    """Return whether enough is in progress, by number or by size."""
    size_bytes = sum(_size_bytes(task) for _, batch in waiting for task in batch)
    return len(waiting) > 2 * workers or (len(waiting) > 1 and size_bytes > MOST_WAITING_BYTES)


def _results(
    future: Future[list[ConvertedImage | RejectedInput]], batch: list[InputImage]
) -> list[ConvertedImage | RejectedInput]:
    try:
        return future.result()
    except BrokenProcessPool:
        raise DataError(
            f"a worker process died (killed, out of memory?) at or after one of the {len(batch)} images from "
            f"'{batch[0].name}' on; run the same command to resume, with fewer --workers if memory is short"
        ) from None


def convert_all(
    tasks: Iterable[InputImage], transform: TransformSettings, workers: int
) -> Iterator[ConvertedImage | RejectedInput]:
    """Convert inputs, and yield the result of each in order.

    Args:
        tasks: the inputs; taken only a little ahead, so that memory stays bounded.
        transform: how they are transformed.
        workers: processes; 0 and 1 convert in this one.

    Raises:
        DataError: a process died.
    """
    if workers <= 1:
        yield from (convert(task, transform) for task in tasks)
        return
    # spawned: a fork would inherit the threads of the progress bar, and their locks
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker) as pool:
        waiting: deque[tuple[Future[list[ConvertedImage | RejectedInput]], list[InputImage]]] = deque()
        try:
            for batch in _input_batches(tasks):
                waiting.append((pool.submit(_convert_batch, batch, transform), batch))
                while _is_full(waiting, workers):
                    yield from _results(*waiting.popleft())
            while waiting:
                yield from _results(*waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
