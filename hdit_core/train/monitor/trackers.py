"""Where the lines of the log go beside log.jsonl: TensorBoard and Weights & Biases, each an extra of its own."""

import hashlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from hdit_core.errors import UsageError, did_you_mean
from hdit_core.recipe.run import Recipe


@runtime_checkable
class Tracker(Protocol):
    """Something that draws curves; steps of it are images, so that runs of other batch sizes lie on each other."""

    def add_numbers(self, numbers: dict[str, float], num_images: int) -> None:
        """Show the numbers of one line of the log."""

    def add_sheet(self, path: Path, num_images: int) -> None:
        """Show a sheet of samples, a PNG."""

    def close(self) -> None:
        """Send what is left."""


class TensorBoard:
    """Events in RUN/tensorboard. A run that is resumed hides the events after the point that it resumes from."""

    def __init__(self, run: Path, recipe: Recipe, num_images: int) -> None:
        writer = _imported("tensorboard", "torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(run / "tensorboard"), purge_step=num_images + 1 if num_images else None)

    def add_numbers(self, numbers: dict[str, float], num_images: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, num_images)
        self._writer.flush()

    def add_sheet(self, path: Path, num_images: int) -> None:
        with Image.open(path) as image:
            self._writer.add_image("samples", np.asarray(image.convert("RGB")), num_images, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, the same one however often ours is resumed; files in RUN/wandb.

    Project, entity, mode and key are what its own environment says, such as WANDB_PROJECT and WANDB_MODE=offline.
    """

    def __init__(self, run: Path, recipe: Recipe, num_images: int) -> None:
        self._wandb = _imported("wandb", "wandb")
        place = str(run.resolve())
        self._run = self._wandb.init(
            id=hashlib.sha256(place.encode()).hexdigest()[:16],
            name=run.name,
            dir=place,
            config=recipe.model_dump(mode="json"),
            resume="allow",
        )
        # lines that a resumed run writes again come later in its own order; num_images puts them where they belong
        self._run.define_metric("*", step_metric="num_images")

    def add_numbers(self, numbers: dict[str, float], num_images: int) -> None:
        self._run.log({**numbers, "num_images": num_images})

    def add_sheet(self, path: Path, num_images: int) -> None:
        self._run.log({"samples": self._wandb.Image(str(path)), "num_images": num_images})

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[Path, Recipe, int], Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse boards that cannot be, before anything is trained.

    Raises:
        UsageError: a name is unknown, or its package is not installed.
    """
    check_names(names)
    for name in names:
        _imported(name, name)


def check_names(names: Sequence[str]) -> None:
    """Refuse boards that hdit does not know, whether or not their packages are installed here.

    Raises:
        UsageError: a name is unknown.
    """
    for name in names:
        if name not in TRACKERS:
            raise UsageError(
                f"--watch {name}: there is no such board{did_you_mean(name, TRACKERS)}; there are {', '.join(TRACKERS)}"
            )


def _imported(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"--watch {name}: the package {name} cannot be imported ({error}); pip install 'hdit-toolkit[{name}]'"
        ) from None


class Trackers:
    """All boards of a run; where there is none, nothing happens."""

    def __init__(self, boards: Sequence[Tracker] = ()) -> None:
        self._boards = boards

    def add_record(self, record: dict[str, Any]) -> None:
        """Show a line of the log."""
        for board in self._boards:
            board.add_numbers(numbers_of(record), record["num_images"])

    def add_sheet(self, path: Path, num_images: int) -> None:
        """Show a sheet of samples."""
        for board in self._boards:
            board.add_sheet(path, num_images)


@contextmanager
def open_trackers(names: Sequence[str], run: Path, recipe: Recipe, num_images: int) -> Iterator[Trackers]:
    """Open boards for a run that stands at so many images, and close them after the body, however it ends."""
    with ExitStack() as held:
        boards = []
        for name in dict.fromkeys(names):
            boards.append(TRACKERS[name](run, recipe, num_images))
            held.callback(boards[-1].close)
        yield Trackers(boards)


def numbers_of(record: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of the log by flat names: `grad_norm/mapping`, `loss/sigma 0.1`, ..."""
    numbers: dict[str, float] = {}
    for key, value in record.items():
        if key == "grad_norm_by_part":
            numbers |= {f"grad_norm/{part}": norm for part, norm in value.items()}
        elif key == "loss_by_sigma":
            numbers |= {f"loss/sigma {row['sigma'][0]:g}": row["loss"] for row in value}
        elif isinstance(value, int | float) and key != "num_images":
            numbers[key] = float(value)
    return numbers
