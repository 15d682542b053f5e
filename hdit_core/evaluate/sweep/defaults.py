"""The winner of a sweep as the defaults of its run, and the way back."""

from pathlib import Path

from hdit_core.errors import UsageError
from hdit_core.evaluate.sweep.search_space import Point
from hdit_core.files import read_text, write_atomic
from hdit_core.generate.settings import NAME, write_defaults

PREVIOUS = "sample-before-sweep.toml"
MARKS = ("# hdit sweep", "# found by hdit sweep")  # how the files of sweeps begin, and those of older versions


def apply_winner(run: Path, winner: Point, remark: str) -> Path:
    """Make a candidate the run's default for `hdit sample`, `eval-fid`, `edit` and `export`; return the file.

    Defaults that existed before are saved for `unapply_winner`.
    """
    path, previous = run / NAME, run / PREVIOUS
    text = read_text(path) if path.exists() else ""
    if text and not text.startswith(MARKS):
        write_atomic(previous, text)
    return write_defaults(run, winner.weights, winner.sample, remark)


def unapply_winner(run: Path) -> Path | None:
    """Undo `apply_winner`; return the file of the previous defaults, None if the recipe's apply again.

    Raises:
        UsageError: the run has no defaults of a sweep.
    """
    path, previous = run / NAME, run / PREVIOUS
    if not path.is_file() or not read_text(path, errors="replace").startswith(MARKS):
        raise UsageError(f"{path}: no defaults of a sweep to undo")
    if previous.is_file():
        previous.replace(path)
        return path
    path.unlink()
    return None
