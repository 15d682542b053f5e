"""A model opened with a command's options on this rank's device, and its sampling jobs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdit_cli.console import align, emit, note
from hdit_cli.options.sampling import GuidanceOptions, ModelOptions
from hdit_cli.output import STDOUT, write_samples
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    import torch

    from hdit_core.diffusion.precondition import Denoiser
    from hdit_core.distributed import World
    from hdit_core.generate.edit.input_image import InputImage
    from hdit_core.generate.job import SamplingJob
    from hdit_core.generate.pipeline import ConditionSource, SamplingPipeline
    from hdit_core.generate.settings import Defaults
    from hdit_core.recipe.run import Recipe

    OpenConditions = Callable[[Recipe, tuple[int, int], int], ConditionSource | None]
    """(recipe, height and width, seed) -> the source of conditions."""


@dataclass(frozen=True)
class ModelSession:
    """A sampling pipeline, its source, and the ranks.

    Attributes:
        ckpt: path of the model.
        weights: kind of its weights.
    """

    ckpt: Path
    weights: str
    pipeline: "SamplingPipeline"
    world: "World"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        channels, height, width = self.pipeline.shape
        return height, width, channels

    def read_image(self, path: Path) -> "InputImage":
        """Return an input image in the network's size and depth, and print the changes that were made to it.

        Raises:
            DataError: it cannot be read, or has other values than the network's images.
        """
        from hdit_core.generate.edit.input_image import read_image
        from hdit_core.generate.output.sample_format import pixel_format

        image = read_image(path, pixel_format(self.pipeline.denoiser.recipe), self.pipeline.image_size)
        self.report_remarks(path, image.remarks)
        return image

    def report_remarks(self, path: Path, remarks: tuple[str, ...]) -> None:
        """Print the changes that were made to an input image."""
        for remark in remarks:
            note(f"{path}: {remark}")

    def class_of_input(self, class_id: int | None) -> int | None:
        """Return the class of an input image, by default the "no class" index; None for networks without classes.

        Raises:
            UsageError: the network has no such class.
        """
        from hdit_core.generate.pipeline import check_class

        num_classes = self.pipeline.num_classes
        check_class(num_classes, class_id)
        return (num_classes if class_id is None else class_id) if num_classes else None

    def run(self, job: "SamplingJob", out: Path, json: bool, columns: tuple[int, int] | None = None) -> None:
        """Generate the images of a job, write them, and print the result.

        Args:
            job: a job of this session's pipeline.
            out: folder, file, or `-`.
            json: print the result as JSON.
            columns: rows and columns of a folder's grid.
        """
        record = write_samples(job, out, self.world, columns)
        result = {"out": str(out), "ckpt": str(self.ckpt), **self.source(), **record}
        lines = align([(key, str(value)) for key, value in result.items() if key != "origin"])
        emit(result, json, lines, err=out == STDOUT)

    def source(self) -> dict[str, Any]:
        """Return the run and step of the model, if known, and the kind of its weights."""
        return self.pipeline.denoiser.source.to_json() | {"weights": self.weights}


@contextmanager
def open_session(
    model: ModelOptions,
    guidance: GuidanceOptions | None,
    device: str,
    seed: int,
    values: Mapping[str, Any],
    conditions: "OpenConditions | None" = None,
) -> Iterator[ModelSession]:
    """Join the ranks and load the model while the body runs.

    Args:
        model: the model, and the size of its images.
        guidance: None if guidance does not apply; the run's own guidance is then ignored.
        device: the value of `--device`.
        seed: seed of the pipeline.
        values: further sampling settings by recipe key, None for the recipe's value.
        conditions: returns the source of condition images and vectors; None for a command without conditions.

    Raises:
        UsageError: the network takes conditions that the command cannot give, cannot process the size, or does not
            match the guide.
        RecipeError: an unknown setting.
        CheckpointError: a checkpoint cannot be read.
    """
    from hdit_core.distributed import LONG_TIMEOUT_S, init_ranks
    from hdit_core.generate.pipeline import SamplingPipeline
    from hdit_core.generate.settings import sample_settings

    with init_ranks(device, LONG_TIMEOUT_S) as world:
        denoiser, defaults = _open_denoiser(model, world.device, guided=guidance is not None)
        recipe, guidance = denoiser.recipe, guidance or GuidanceOptions()
        values = {**values, **guidance.settings}
        settings = sample_settings(recipe, model.overrides or (), **values)
        weights, size = model.weights or defaults.weights, model.pixels or recipe.model.image_size
        guide = guidance.load(weights, world.device)
        source = (conditions or _no_conditions(model.ckpt))(recipe, size, seed)
        pipeline = SamplingPipeline(denoiser, settings, seed, size, guide, source)
        _print_notes(pipeline, defaults.note(model.weights, model.overrides or (), **values))
        yield ModelSession(model.ckpt, denoiser.source.weights or "unknown", pipeline, world)


def _no_conditions(ckpt: Path) -> "OpenConditions":
    """Return a function that refuses networks that take condition images or vectors, for commands that have none."""

    def refuse(recipe: "Recipe", *_: object) -> None:
        wanted = [("condition images", recipe.condition_image_channels), ("vectors", recipe.model.mapping_cond_dim)]
        if taken := [what for what, length in wanted if length]:
            raise UsageError(
                f"{ckpt}: the network takes {' and '.join(taken)}, which this command cannot give; use hdit restore, "
                "or hdit sample with --condition and --vectors"
            )

    return refuse


def _open_denoiser(model: ModelOptions, device: "torch.device", *, guided: bool) -> tuple["Denoiser", "Defaults"]:
    from hdit_core.generate.settings import open_denoiser, with_sample

    denoiser, defaults = open_denoiser(model.ckpt, model.weights, device)
    if guided:
        return denoiser, defaults
    sample = {key: value for key, value in defaults.sample.items() if not key.startswith("guidance")}
    unguided = {"guidance": 1.0, "guidance_interval": None, "guidance_rescale": 0.0}
    return with_sample(denoiser, denoiser.recipe.sample.model_copy(update=unguided)), replace(defaults, sample=sample)


def _print_notes(pipeline: "SamplingPipeline", defaults: str | None) -> None:
    """Print precision and attention backends, the defaults in use, and options without effect."""
    from hdit_core.checkpoint.denoiser import setup_notes

    for line in setup_notes(pipeline.denoiser):
        note(line)
    if defaults is not None:
        note(defaults)
    for line in _ineffective_options(pipeline):
        note(line)


def _ineffective_options(pipeline: "SamplingPipeline") -> Iterator[str]:
    """Yield a message for each option without effect, and for a size other than the training size."""
    settings, guide, trained = pipeline.settings, pipeline.guide, pipeline.denoiser.recipe.model.image_size
    active_guide = guide is not None and guide.weight != 1
    if guide is not None and not active_guide:
        yield "--guide has no effect: the autoguidance scale is 1"
    elif guide is not None and _same_weights(pipeline.denoiser, guide.denoiser):
        yield "--guide has no effect: it has the same weights as the model"
    scales = {settings.guidance, settings.condition_guidance, settings.vector_guidance}
    given = {"interval": settings.guidance_interval is not None, "rescale factor": settings.guidance_rescale != 0}
    if scales == {1} and not active_guide:
        yield from (f"the guidance {name} has no effect: the guidance scale is 1" for name in given if given[name])
    if pipeline.image_size != trained:
        sizes = ["x".join(map(str, size)) for size in (pipeline.image_size, trained)]
        yield f"generating at {sizes[0]}; the model was trained at {sizes[1]}"


def _same_weights(model: "Denoiser", guide: "Denoiser") -> bool:
    ours, theirs = model.state_dict(), guide.state_dict()
    return ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
