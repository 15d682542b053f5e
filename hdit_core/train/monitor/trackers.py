"""Experiment trackers: TensorBoard and Weights & Biases, each an optional extra."""

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
    """An experiment tracker; its steps are images, so that runs with different batch sizes can be compared."""

    def add_numbers(self, numbers: dict[str, float], num_images: int) -> None:
        """Add the numbers of one line of the log."""

    def add_sheet(self, path: Path, num_images: int) -> None:
        """Add a grid of samples, a PNG."""

    def close(self) -> None:
        """Flush and close."""


class TensorBoard:
    """Events in RUN/tensorboard. A resumed run hides the events after the point that it resumes from."""

    def __init__(self, run: Path, recipe: Recipe, num_images: int) -> None:
        writer = _imported("tensorboard", "torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(run / "tensorboard"), purge_step=num_images + 1 if num_images else None)

    def add_numbers(self, numbers: dict[str, float], num_images: int) -> None:
        """Add the numbers of one line of the log."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, num_images)
        self._writer.flush()

    def add_sheet(self, path: Path, num_images: int) -> None:
        """Add a grid of samples."""
        with Image.open(path) as image:
            self._writer.add_image("samples", np.asarray(image.convert("RGB")), num_images, dataformats="HWC")

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, the same one after a resume; files in RUN/wandb.

    Project, entity, mode and key come from its environment variables, such as WANDB_PROJECT and WANDB_MODE=offline.
    """

    def __init__(self, run: Path, recipe: Recipe, num_images: int) -> None:
        self._wandb = _imported("wandb", "wandb")
        folder = str(run.resolve())
        self._run = self._wandb.init(
            id=hashlib.sha256(folder.encode()).hexdigest()[:16],
            name=run.name,
            dir=folder,
            config=recipe.model_dump(mode="json"),
            resume="allow",
        )
        # a resumed run repeats some lines; num_images, not the order, is their position
        self._run.define_metric("*", step_metric="num_images")

    def add_numbers(self, numbers: dict[str, float], num_images: int) -> None:
        """Add the numbers of one line of the log."""
        self._run.log({**numbers, "num_images": num_images})

    def add_sheet(self, path: Path, num_images: int) -> None:
        """Add a grid of samples."""
        self._run.log({"samples": self._wandb.Image(str(path)), "num_images": num_images})

    def close(self) -> None:
        """Flush and close."""
        self._run.finish()


TRACKERS: dict[str, Callable[[Path, Recipe, int], Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def check_trackers(names: Sequence[str]) -> None:
    """Check trackers before anything is trained.

    Raises:
        UsageError: a name is unknown, or its package is not installed.
    """
    check_names(names)
    for name in names:
        _imported(name, name)


def check_names(names: Sequence[str]) -> None:
    """Check the names of trackers, whether or not their packages are installed.

    Raises:
        UsageError: a name is unknown.
    """
    for name in names:
        if name not in TRACKERS:
            raise UsageError(
                f"--tracker {name}: no such tracker{did_you_mean(name, TRACKERS)}; there are {', '.join(TRACKERS)}"
            )


def _imported(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"--tracker {name}: the package {name} cannot be imported ({error}); "
            f"run: pip install 'hdit-toolkit[{name}]'"
        ) from None


class Trackers:
    """All trackers of a run, possibly none."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = trackers

    def add_record(self, record: dict[str, Any]) -> None:
        """Add a line of the log."""
        for tracker in self._trackers:
            tracker.add_numbers(numbers_of(record), record["num_images"])

    def add_sheet(self, path: Path, num_images: int) -> None:
        """Add a grid of samples."""
        for tracker in self._trackers:
            tracker.add_sheet(path, num_images)


@contextmanager
def open_trackers(names: Sequence[str], run: Path, recipe: Recipe, num_images: int) -> Iterator[Trackers]:
    """Open trackers for a run at `num_images` images, and close them after the body."""
    with ExitStack() as held:
        trackers = []
        for name in dict.fromkeys(names):
            trackers.append(TRACKERS[name](run, recipe, num_images))
            held.callback(trackers[-1].close)
        yield Trackers(trackers)


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
