"""Callbacks of a training run. Messages go to `logging.getLogger("hdit")`."""

from collections.abc import Callable
from dataclasses import dataclass

from hdit_core.progress_bar import ProgressBar


@dataclass(frozen=True)
class Progress:
    """Progress of a run; loss, gradient norm and throughput are means since the last line of the log."""

    step: int
    num_images: int
    total_images: int
    loss: float
    grad_norm: float
    lr: float
    images_per_s: float  # of training alone: without evaluation, sample grids and compilation

    @property
    def seconds_left(self) -> float:
        """Time to the end of the run at this throughput."""
        return max(0, self.total_images - self.num_images) / max(self.images_per_s, 1e-9)


@dataclass(frozen=True)
class Callbacks:
    """Functions that a run calls.

    Attributes:
        on_progress: called after each line of the log.
        on_step: called after each step.
        on_evaluation: called while images are evaluated, with what they are (`reference image` or `evaluation sample`),
            the number done, and the total if it is known.
        trackers: names of experiment trackers, see `trackers.TRACKERS`.
    """

    on_progress: Callable[[Progress], None] = lambda progress: None
    on_step: Callable[[Progress], None] = lambda progress: None
    on_evaluation: Callable[[str, int, int | None], None] = lambda what, done, total: None
    trackers: tuple[str, ...] = ()


def showing(bar: ProgressBar, trackers: tuple[str, ...] = ()) -> Callbacks:
    """Return callbacks that show each step and each evaluation in a progress bar."""

    def show(now: Progress) -> None:
        remark = f"step {now.step:,}, loss {now.loss:.4f}"
        bar.update(now.num_images, now.total_images, remark, per_s=now.images_per_s)

    def show_evaluation(what: str, done: int, total: int | None) -> None:
        of = f" of {total:,}" if total is not None else ""
        bar.update(bar.done, remark=f"{what} {done:,}{of}", per_s=bar.per_s)

    return Callbacks(on_step=show, on_evaluation=show_evaluation, trackers=trackers)
