"""What the subcommands of `hdit edit` do alike: open a checkpoint with its settings, and hand on what was drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdit_cli.console import align, emit, note
from hdit_cli.options import image_size
from hdit_cli.sample_output import STDOUT, deliver

if TYPE_CHECKING:
    from hdit_core.distributed import World
    from hdit_core.generate.edit import Draw
    from hdit_core.generate.painter import Painter


@dataclass(frozen=True)
class Session:
    """A checkpoint that was opened, on this rank's device."""

    ckpt: Path
    weights: str
    painter: "Painter"
    world: "World"

    @property
    def num_classes(self) -> int:
        """Classes of the network, 0 without."""
        return self.painter.denoiser.recipe.model.num_classes

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
        from hdit_core.generate.generate import check_classes

        check_classes(self.num_classes, [0], None if class_id is None else [class_id])
        return (self.num_classes if class_id is None else class_id) if self.num_classes else None


@contextmanager
def session(ckpt: Path, weights: str, device: str, size: str | None, seed: int, **given: object) -> Iterator[Session]:
    """Open a checkpoint while the body runs.

    Args:
        size: what `--size` says; None: the recipe's.
        given: sampling settings, None where the recipe's count.
    """
    pixels = image_size(size) if size is not None else None

    from hdit_core.checkpoint import load_denoiser
    from hdit_core.checkpoint.denoiser import attention_notes
    from hdit_core.devices import pick_device
    from hdit_core.distributed import APART_S, join
    from hdit_core.generate.painter import Painter
    from hdit_core.generate.settings import sample_settings

    world = join(device, APART_S)
    try:
        denoiser = load_denoiser(ckpt, weights, world.device(pick_device(device)))
        settings = sample_settings(denoiser.recipe, (), **given)
        painter = Painter(denoiser, settings, seed, pixels or denoiser.recipe.model.image_size)
        for line in attention_notes(denoiser) if world.is_main else ():
            note(line)
        yield Session(ckpt, weights, painter, world)
    finally:
        world.leave()


def draw_all(
    here: Session,
    draw: "Draw",
    edit: dict[str, Any],
    numbers: list[int],
    class_id: int | None,
    out: Path,
    json: bool,
    classes_follow: bool = True,
) -> None:
    """Draw the images of an edit, put them where they are to go, and print what they are."""
    from hdit_core.generate.edit import EditJob

    painter = here.painter
    job = EditJob(
        painter.denoiser,
        numbers,
        painter.seed,
        painter.settings,
        painter.image_size,
        class_id,
        draw=draw,
        edit=edit,
        classes_follow=classes_follow,
    )
    record = deliver(job, out, here.world)
    if here.world.is_main:
        result = {"out": str(out), "ckpt": str(here.ckpt), "weights": here.weights, **record}
        lines = align([(key, str(value)) for key, value in result.items() if key != "origin"])
        emit(result, json, lines, err=out == STDOUT)
