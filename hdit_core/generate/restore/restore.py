"""Restores inputs one after the other into a folder or a tar, in batches of images of the same size."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.data.image.decode import UnusableImageError
from hdit_core.data.sources.source import without_ending
from hdit_core.distributed import World
from hdit_core.errors import DataError
from hdit_core.generate.condition.inputs import InputImage, NamedInputs
from hdit_core.generate.job import OnProgress
from hdit_core.generate.output.comparison import MOST_ROWS, Row, comparison_png
from hdit_core.generate.output.sample_folder import OLD_GRID
from hdit_core.generate.restore.job import Prepared, RestoreJob
from hdit_core.generate.restore.restored_folder import RestoredFolder

logger = logging.getLogger("hdit")


@runtime_checkable
class Output(Protocol):
    """Where restored images go."""

    def name(self, name: str) -> str:
        """Return the name of the file for an input.

        Raises:
            UnusableImageError: a package that writes it is missing.
        """

    def holds(self, name: str, input_sha256: str) -> bool:
        """Return whether the image of an input exists, is intact, and was made from an input of this hash."""

    def write(self, name: str, input_sha256: str, image: Float[Tensor, "C H W"]) -> None:
        """Write the image of an input."""

    def log_unusable(self, name: str, reason: str) -> None:
        """Log an input that cannot be restored."""


@dataclass
class Progress:
    """The progress of one rank: number of images in the folder, unusable inputs with reasons, and rows of the grid."""

    num_images: int
    unusable: dict[str, str]
    rows: list[tuple[Prepared, str]]


def restore_inputs(
    job: RestoreJob,
    inputs: Iterable[InputImage | tuple[str, str]],
    output: Output,
    on_progress: OnProgress,
    row_every: int = 1,
) -> Progress:
    """Restore inputs, except those whose images exist already; one batch is in memory at a time.

    Args:
        job: how they are restored.
        inputs: contents; or the name of an input that cannot be read, with the reason.
        output: where images go; begun.
        on_progress: called with the number of inputs that are done.
        row_every: inputs from one row of the grid to the next.
    """
    done = Progress(0, {}, [])
    rows = _RowsOfGrid(row_every, done)

    def finish(batch: list[Prepared]) -> None:
        for prepared, image in zip(batch, job.restore(batch), strict=True):
            output.write(prepared.name, prepared.sha256, image)
        done.num_images += len(batch)
        on_progress(done.num_images + len(done.unusable))

    for batch in _batches(job, _missing(job, inputs, output, done, on_progress, rows)):
        finish(batch)
    return done


def _missing(
    job: RestoreJob,
    inputs: Iterable[InputImage | tuple[str, str]],
    output: Output,
    done: Progress,
    on_progress: OnProgress,
    rows: "_RowsOfGrid",
) -> Iterator[Prepared]:
    """Yield the inputs whose images are missing; count the others, and log those that cannot be used."""
    names = _OutputNames()
    for each in inputs:
        try:
            if isinstance(each, tuple):
                raise UnusableImageError(each[1])
            prepared = job.prepare(each)
            file = output.name(each.name)
            names.reserve(file, each.name)
        except (UnusableImageError, DataError) as problem:
            name = each[0] if isinstance(each, tuple) else each.name
            logger.warning("%s: %s; skipped", name, problem)
            done.unusable[name] = str(problem)
            output.log_unusable(name, str(problem))
            continue
        rows.add(prepared, file)
        if output.holds(prepared.name, prepared.sha256):
            done.num_images += 1
            on_progress(done.num_images + len(done.unusable))
        else:
            yield prepared


class _RowsOfGrid:
    """Keeps every n-th usable input for the grid, up to its number of rows."""

    def __init__(self, every: int, done: Progress) -> None:
        self._every, self._done, self._seen = every, done, 0

    def add(self, prepared: Prepared, file: str) -> None:
        """Take the next usable input, and the file of its image."""
        if self._seen % self._every == 0 and len(self._done.rows) < MOST_ROWS:
            self._done.rows.append((prepared, file))
        self._seen += 1


class _OutputNames:
    """The files of the outputs so far, and their folders, each with an input that it is for."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def reserve(self, file: str, name: str) -> None:
        """Take the file of an input's output; raise UnusableImageError if another output is in its way."""
        if file == OLD_GRID:
            raise UnusableImageError(f"its image would be {OLD_GRID}, which hdit reads as an image grid; rename it")
        if file in self._files:
            raise UnusableImageError(f"its image would have the same name as that of {self._files[file]}; rename one")
        folders = [file[:end] for end, letter in enumerate(file) if letter == "/"]
        other = self._folders.get(file) or next((self._files[each] for each in folders if each in self._files), None)
        if other is not None:
            raise UnusableImageError(f"its image and that of {other} would need a file and a folder of one name")
        self._files[file] = name
        self._folders |= dict.fromkeys(folders, name)


def _batches(job: RestoreJob, prepared: Iterator[Prepared]) -> Iterator[list[Prepared]]:
    """Yield batches of neighbors with the same canvas."""
    batch: list[Prepared] = []
    for each in prepared:
        if batch and (len(batch) == job.images_at_once(batch[0]) or job.canvas(batch[0]) != job.canvas(each)):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def share_of(inputs: NamedInputs, world: World) -> Iterator[InputImage | tuple[str, str]]:
    """Yield the inputs of this rank, or the name of one that cannot be read or written with the reason."""
    first = {without_ending(name): index for index, name in reversed(list(enumerate(inputs.names)))}
    for index in range(world.rank, len(inputs), world.size):
        name = inputs.names[index]
        if (same := first[without_ending(name)]) != index:
            yield name, f"its image would have the same name as that of {inputs.names[same]}; rename one"
            continue
        try:
            yield inputs.read(index)
        except UnusableImageError as problem:
            yield inputs.names[index], str(problem)


def finish_folder(folder: RestoredFolder, done: Progress, source: str, world: World) -> dict[str, Any]:
    """Wait for all ranks, and write the grid and the record on the main one, which returns it; {} on the others."""
    num_images = int(world.sum(torch.tensor(done.num_images, device=world.device)))
    if not world.is_main:
        return {}
    rows = _comparison_rows(done, folder)
    return folder.finish(source, num_images, comparison_png(rows) if rows else None)


def _comparison_rows(done: Progress, folder: RestoredFolder) -> list[Row]:
    """Return the rows of the grid: condition, restored image, and target where it is known."""
    rows: list[Row] = []
    for prepared, file in done.rows:
        conditioned, sample = prepared.conditioned, folder.read(file)
        if sample is not None:
            rows.append((conditioned.condition, sample, conditioned.target))
    return rows
