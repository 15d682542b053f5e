"""What the subcommands of `hdit edit` do alike: open a checkpoint with its settings, and hand on what was drawn."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdit_cli.console import align, emit, note
from hdit_cli.drawing_options import GuidanceOptions, ModelOptions
from hdit_cli.opened import Opened, opened
from hdit_cli.sample_output import STDOUT, deliver

if TYPE_CHECKING:
    from hdit_core.distributed import World
    from hdit_core.generate.edit import Draw
    from hdit_core.generate.painter import Painter


@dataclass(frozen=True)
class Session:
    """A model that was opened, and what every way of editing is handed."""

    model: Opened
    painter: "Painter"

    @property
    def world(self) -> "World":
        """The ranks."""
        return self.model.world

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        channels, height, width = self.painter.shape
        return height, width, channels

    def note(self, path: Path, remarks: tuple[str, ...]) -> None:
        """Say what was done to a picture that was read."""
        for remark in remarks if self.world.is_main else ():
            note(f"{path}: {remark}")

    def class_of_one(self, class_id: int | None) -> int | None:
        """Return the class of a picture: what was asked for, else none of them; None for networks without any.

        Raises:
            UsageError: the network has no such class.
        """
        self.model.check_class(class_id)
        num_classes = self.model.num_classes
        return (num_classes if class_id is None else class_id) if num_classes else None


@contextmanager
def session(
    model: ModelOptions, leading: GuidanceOptions | None, device: str, seed: int, given: Mapping[str, Any]
) -> Iterator[Session]:
    """Open a model while the body runs; arguments and errors are those of `opened`."""
    with opened(model, leading, device, given) as here:
        from hdit_core.generate.painter import Painter

        yield Session(here, Painter(here.denoiser, here.settings, seed, here.image_size, here.guide))


@dataclass(frozen=True)
class Drawn:
    """The images of an edit, and where they go.

    Attributes:
        draw: draws a batch.
        edit: what is done, to what, as plain values.
        count: how many images, from number 0 on.
        class_id: of all of them.
        classes_follow: whether classes follow the numbers where none is asked for; else no image has one.
    """

    draw: "Draw"
    edit: Mapping[str, Any]
    count: int
    class_id: int | None
    out: Path
    classes_follow: bool = True


def draw_all(here: Session, drawn: Drawn, json: bool) -> None:
    """Draw the images of an edit, put them where they are to go, and print what they are."""
    from hdit_core.generate.edit import EditJob

    model = here.model
    job = EditJob(
        model.denoiser,
        list(range(drawn.count)),
        here.painter.seed,
        model.settings,
        model.image_size,
        drawn.class_id,
        guide=model.guide,
        draw=drawn.draw,
        edit=drawn.edit,
        classes_follow=drawn.classes_follow,
    )
    record = deliver(job, drawn.out, here.world)
    if here.world.is_main:
        result = {"out": str(drawn.out), "ckpt": str(model.ckpt), "weights": model.weights, **record}
        lines = align([(key, str(value)) for key, value in result.items() if key != "origin"])
        emit(result, json, lines, err=drawn.out == STDOUT)
