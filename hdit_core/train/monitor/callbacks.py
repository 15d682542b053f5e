"""What somebody who looks on at a run is told while it runs."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a run is; loss, gradient norm and speed are means since the last report."""

    step: int
    num_images: int
    total_images: int
    loss: float
    grad_norm: float
    lr: float
    images_per_s: float


@dataclass(frozen=True)
class Callbacks:
    """What somebody who looks on is told.

    Attributes:
        boards: names of services that draw the curves, see `trackers.BOARDS`.
    """

    on_progress: Callable[[Progress], None] = lambda progress: None
    on_note: Callable[[str], None] = lambda note: None
    trackers: tuple[str, ...] = ()
