"""A model that was opened as the options of a command say, on this rank's device: what is asked for images."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdit_cli.console import align, emit, note
from hdit_cli.options.sampling import GuidanceOptions, ModelOptions
from hdit_cli.output import STDOUT, write_samples

if TYPE_CHECKING:
    import torch

    from hdit_core.diffusion.guidance import Guide
    from hdit_core.diffusion.precondition import Denoiser
    from hdit_core.distributed import World
    from hdit_core.generate.pipeline import Draw, SamplingPipeline
    from hdit_core.generate.settings import Defaults
    from hdit_core.recipe.sample import SampleRecipe


@dataclass(frozen=True)
class Opened:
    """A model with what was asked of it.

    Attributes:
        weights: which of the checkpoint's.
        image_size: rows and columns in pixels.
        guide: a worse model to lead away from.
    """

    ckpt: Path
    weights: str
    denoiser: "Denoiser"
    settings: "SampleRecipe"
    image_size: tuple[int, int]
    guide: "Guide | None"
    world: "World"

    @property
    def num_classes(self) -> int:
        """Classes of the network, 0 without."""
        return self.denoiser.recipe.model.num_classes

    def check_class(self, class_id: int | None) -> None:
        """Refuse a class that the network does not have.

        Raises:
            UsageError: naming it and those that there are.
        """
        from hdit_core.generate.pipeline import check_classes

        check_classes(self.num_classes, [0], None if class_id is None else [class_id])


@contextmanager
def opened(
    model: ModelOptions,
    leading: GuidanceOptions | None,
    device: str,
    given: Mapping[str, Any],
) -> Iterator[Opened]:
    """Join the ranks and load what the options name while the body runs.

    Args:
        leading: None where nothing may lead: the run's own guidance does not count then.
        device: what `--device` says.
        given: further sampling settings by key, None where the recipe's count.

    Raises:
        UsageError: the network cannot take the size, or the guide is unlike it.
        RecipeError: a setting that there is not.
        CheckpointError: a checkpoint cannot be read.
    """
    from hdit_core.distributed import LONG_TIMEOUT_S, init_ranks
    from hdit_core.generate.pipeline import check_request
    from hdit_core.generate.settings import sample_settings

    with init_ranks(device, LONG_TIMEOUT_S) as world:
        denoiser, defaults = _denoiser(model, world.device, guided=leading is not None)
        leading = leading or GuidanceOptions()
        settings = sample_settings(denoiser.recipe, model.overrides or (), **given, **leading.settings)
        guide = leading.load(model.weights or defaults.weights, world.device)
        size = model.pixels or denoiser.recipe.model.image_size
        check_request(denoiser, size, guide)
        here = Opened(model.ckpt, model.weights or defaults.weights, denoiser, settings, size, guide, world)
        _say_how(here, defaults.note)
        yield here


def _denoiser(model: ModelOptions, device: "torch.device", *, guided: bool) -> tuple["Denoiser", "Defaults"]:
    from hdit_core.generate.settings import open_denoiser, with_sample

    denoiser, defaults = open_denoiser(model.ckpt, model.weights, device)
    if guided:
        return denoiser, defaults
    sample = {key: value for key, value in defaults.sample.items() if not key.startswith("guidance")}
    plain = denoiser.recipe.sample.model_copy(update={"guidance": 1.0})
    return with_sample(denoiser, plain), replace(defaults, sample=sample)


def _say_how(here: Opened, by_default: str | None) -> None:
    from hdit_core.checkpoint.denoiser import attention_notes

    if not here.world.is_main:
        return
    for line in attention_notes(here.denoiser):
        note(line)
    if by_default is not None:
        note(by_default)
    if here.guide is not None and here.guide.weight == 1:
        note("the guide is not asked: --autoguidance 1 leads nowhere")


@dataclass(frozen=True)
class Session:
    """A model that was opened, and what every way of editing is handed."""

    model: Opened
    painter: "SamplingPipeline"

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
        from hdit_core.generate.pipeline import SamplingPipeline

        yield Session(here, SamplingPipeline(here.denoiser, here.settings, seed, here.image_size, here.guide))


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
    from hdit_core.generate.job import EditingJob

    model = here.model
    job = EditingJob(
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
    record = write_samples(job, drawn.out, here.world)
    if here.world.is_main:
        result = {"out": str(drawn.out), "ckpt": str(model.ckpt), "weights": model.weights, **record}
        lines = align([(key, str(value)) for key, value in result.items() if key != "origin"])
        emit(result, json, lines, err=drawn.out == STDOUT)
