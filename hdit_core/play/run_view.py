"""What the page shows of a run while it trains: its status, curves of its log and scores, and its sample grids."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdit_core.checkpoint.layout import grid_file, log_file, scores_file, status_file
from hdit_core.checkpoint.log import read_log
from hdit_core.checkpoint.status import read_status
from hdit_core.errors import RecipeError
from hdit_core.progress_bar import duration
from hdit_core.runs.curves import curves_plot, log_curves, score_curves
from hdit_core.runs.summary import recipe_of

LARGEST_GRID_BYTES = 16 << 20


@dataclass(frozen=True)
class RunView:
    """A run at one moment.

    Attributes:
        text: its status, one line.
        curves: PNGs, one for each quantity.
        grids: numbers of images at which there are sample grids, in order.
    """

    text: str
    curves: tuple[bytes, ...]
    grids: tuple[int, ...]


def state_of(run: Path) -> tuple[Any, ...]:
    """Return a value that changes when the run's log, scores, status or grids do."""
    files = [log_file(run), scores_file(run), status_file(run), grid_file(run, 0).parent]
    return tuple(_changed_at(file) for file in files)


def _changed_at(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size


def view_run(run: Path) -> RunView:
    """Return what there is to see of a run."""
    panels = [*log_curves(run), *([curve] for curve in score_curves(run))]
    plotted = [panel for panel in panels if any(curve.num_images for curve in panel)]
    return RunView(status_line(run), tuple(curves_plot([panel]) for panel in plotted), tuple(grids_of(run)))


def grids_of(run: Path) -> Iterator[int]:
    """Yield the numbers of images at which the run has sample grids, in order."""
    folder = grid_file(run, 0).parent
    names = sorted(file.stem for file in folder.glob("*.png")) if folder.is_dir() else []
    yield from (int(name) for name in names if name.isascii() and name.isdigit())


def grid_of(run: Path, num_images: int) -> bytes | None:
    """Return the PNG of a sample grid; None if there is none, or it is too large for a page."""
    path = grid_file(run, num_images)
    try:
        return path.read_bytes() if path.stat().st_size <= LARGEST_GRID_BYTES else None
    except OSError:
        return None


def status_line(run: Path) -> str:
    """Return state, progress, loss, speed and remaining time of a run."""
    status, log = read_status(run), read_log(run)
    last = log[-1] if log else {}
    places = [status, status.get("progress") or {}, last]
    num_images = max(int(place.get("num_images", 0)) for place in places)
    total = _total_images(run)
    parts = [str(status.get("state", "unknown"))]
    parts.append(f"{num_images:,} of {total:,} images" if total else f"{num_images:,} images")
    if isinstance(last.get("loss"), int | float):
        parts.append(f"loss {last['loss']:.4g}")
    speed = last.get("images_per_s")
    if isinstance(speed, int | float) and speed > 0:
        parts.append(f"{speed:.3g} images/s")
        if total and status.get("state") == "running":
            parts.append(f"{duration(max(0, total - num_images) / speed)} left")
    reason = status.get("reason")
    return ", ".join(parts) + (f" ({reason})" if reason else "")


def _total_images(run: Path) -> int | None:
    try:
        return recipe_of(run).train.num_images
    except RecipeError:
        return None
