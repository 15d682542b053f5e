"""One input becomes one sample of a shard, or a reject with its reason; in this process or in several."""

import hashlib
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

from hdit_core.data.format.hashes import image_hashes
from hdit_core.data.format.manifest import Channels, Codec
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

CHUNK_INPUTS = 8  # sent to a process at once
CHUNK_BYTES = 32 << 20  # fewer inputs where they are large: those of an archive are sent with their content
MOST_WAITING_BYTES = 256 << 20  # in all chunks that are being worked on


@dataclass(frozen=True)
class TransformSettings:
    """What is done to every image."""

    height: int
    width: int
    channels: Channels
    crop: Crop
    codec: Codec
    background: tuple[int, int, int]
    seed: int
    resize: Resize = "lanczos"
    quality: int = JPEG_QUALITY  # of JPEG alone
    buckets: tuple[ImageSize, ...] = ()  # sizes to choose from; none: height and width above

    def for_shape(self, height: int, width: int) -> "TransformSettings":
        """Return what is done to an image of this shape."""
        if not self.buckets:
            return self
        height, width = nearest_size(self.buckets, height, width)
        return replace(self, height=height, width=width, buckets=())


@dataclass(frozen=True, slots=True)
class InputImage:
    """One input on its way to a sample."""

    number: int  # place among all inputs
    name: str
    label: int
    class_name: str | None
    content: bytes | Path | str  # the file, where it lies, or why there is none


@dataclass(frozen=True, slots=True)
class RejectedInput:
    """An input that gives no sample."""

    number: int
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ConvertedImage:
    """A sample, and what was done to it that a user may want to know."""

    sample: Sample
    remarks: tuple[str, ...]


def _frame(image: Image.Image, transform: TransformSettings, name: str) -> Image.Image:
    if transform.crop == "fit":
        return pad_and_resize(image, transform.height, transform.width, transform.background, transform.resize)
    place = random_crop_position(transform.seed, name) if transform.crop == "random" else (0.5, 0.5)
    return crop_and_resize(image, transform.height, transform.width, place, transform.resize)


def _sample(task: InputImage, data: bytes, transform: TransformSettings) -> ConvertedImage:
    decoded = decode_image(data, transform.channels, transform.background)
    image = decoded.image
    transform = transform.for_shape(image.height, image.width)
    smaller = (image.height < transform.height, image.width < transform.width)
    enlarged = all(smaller) if transform.crop == "fit" else any(smaller)
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
    return ConvertedImage(sample, (*decoded.remarks, *(("enlarged",) if enlarged else ())))


def convert(task: InputImage, transform: TransformSettings) -> ConvertedImage | RejectedInput:
    """Turn one input into a sample, or say why not."""
    if isinstance(task.content, str):
        return RejectedInput(task.number, task.name, task.content)
    try:
        return _sample(task, read_file(task.content) if isinstance(task.content, Path) else task.content, transform)
    except UnusableImageError as problem:
        return RejectedInput(task.number, task.name, str(problem))
    except OSError as problem:
        return RejectedInput(task.number, task.name, f"cannot be read: {problem.strerror or type(problem).__name__}")


def _convert_chunk(tasks: list[InputImage], transform: TransformSettings) -> list[ConvertedImage | RejectedInput]:
    return [convert(task, transform) for task in tasks]


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end when it is killed: a worker would wait for its next task for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _weight(task: InputImage) -> int:
    return len(task.content) if isinstance(task.content, bytes) else 0


def _chunks(tasks: Iterable[InputImage]) -> Iterator[list[InputImage]]:
    chunk: list[InputImage] = []
    for task in tasks:
        chunk.append(task)
        if len(chunk) == CHUNK_INPUTS or sum(map(_weight, chunk)) >= CHUNK_BYTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _is_full(waiting: Collection[tuple[object, list[InputImage]]], workers: int) -> bool:
    """Return whether enough is being worked on, by number or by weight."""
    weight = sum(_weight(task) for _, chunk in waiting for task in chunk)
    return len(waiting) > 2 * workers or (len(waiting) > 1 and weight > MOST_WAITING_BYTES)


def _results(
    future: Future[list[ConvertedImage | RejectedInput]], chunk: list[InputImage]
) -> list[ConvertedImage | RejectedInput]:
    try:
        return future.result()
    except BrokenProcessPool:
        raise DataError(
            f"a process died (killed, out of memory?) while it read one of {len(chunk)} images from '{chunk[0].name}' "
            "on, or shortly after; run the same command again to go on, with fewer --workers if memory is short"
        ) from None


def convert_all(
    tasks: Iterable[InputImage], transform: TransformSettings, workers: int
) -> Iterator[ConvertedImage | RejectedInput]:
    """Convert inputs, and yield what became of each in their order.

    Args:
        tasks: the inputs; few more are taken than are being worked on, so that memory stays flat.
        transform: what is done to them.
        workers: processes beside this one; 0 and 1 mean none.

    Raises:
        DataError: a process died.
    """
    if workers <= 1:
        yield from (convert(task, transform) for task in tasks)
        return
    # A fresh interpreter for each: a fork would inherit the threads that draw the progress bar, and their locks.
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker) as pool:
        waiting: deque[tuple[Future[list[ConvertedImage | RejectedInput]], list[InputImage]]] = deque()
        try:
            for chunk in _chunks(tasks):
                waiting.append((pool.submit(_convert_chunk, chunk, transform), chunk))
                while _is_full(waiting, workers):
                    yield from _results(*waiting.popleft())
            while waiting:
                yield from _results(*waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
