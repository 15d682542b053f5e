"""A model that was opened as the options of a command say, on this rank's device: what is asked for images."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdit_cli.console import note
from hdit_cli.drawing_options import GuidanceOptions, ModelOptions

if TYPE_CHECKING:
    import torch

    from hdit_core.diffusion.guidance import Guide
    from hdit_core.diffusion.precondition import Denoiser
    from hdit_core.distributed import World
    from hdit_core.generate.defaults import Defaults
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
        from hdit_core.generate.generate import check_classes

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
    from hdit_core.devices import pick_device
    from hdit_core.distributed import APART_S, join
    from hdit_core.generate.generate import check_request
    from hdit_core.generate.settings import sample_settings

    world = join(device, APART_S)
    try:
        mine = world.device(pick_device(device))
        denoiser, defaults = _denoiser(model, mine, guided=leading is not None)
        leading = leading or GuidanceOptions()
        settings = sample_settings(denoiser.recipe, model.overrides or (), **given, **leading.settings)
        guide = leading.load(model.weights or defaults.weights, mine)
        size = model.pixels or denoiser.recipe.model.image_size
        check_request(denoiser, size, guide)
        here = Opened(model.ckpt, model.weights or defaults.weights, denoiser, settings, size, guide, world)
        _say_how(here, defaults.note)
        yield here
    finally:
        world.leave()


def _denoiser(model: ModelOptions, device: "torch.device", *, guided: bool) -> tuple["Denoiser", "Defaults"]:
    from hdit_core.generate.defaults import open_denoiser, with_sample

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
