"""The hdit commands that give the images of the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hdit_core.play.request import SampleForm
from hdit_core.recipe.sample import SampleRecipe


@dataclass(frozen=True)
class Job:
    """What a command does, without its model and settings.

    Attributes:
        words: the command and its arguments, such as `edit vary image.png`.
        options: its own options.
        folder: name of the folder of its images.
        files: contents of the files that it reads, by their names.
    """

    words: Sequence[str]
    options: Sequence[str]
    folder: str
    files: Mapping[str, bytes] = field(default_factory=dict)


def sample_job(form: SampleForm, folder: str) -> Job:
    """Return the job of `hdit sample`."""
    return Job(["sample"], ["--count", str(form.count)], folder)


def command(job: Job, path: str, weights: str | None, form: SampleForm, default: SampleRecipe) -> list[str]:
    """Return the words of a command.

    Args:
        job: what it does.
        path: of the model.
        weights: of the model; None for its only ones.
        form: the settings.
        default: the settings that the model has without options.
    """
    settings = form.settings
    words = ["hdit", *job.words, "--ckpt", path, *job.options, "--seed", str(form.seed)]
    words += ["--out", f"samples/{job.folder}"]
    words += ["--steps", str(settings.steps), "--sampler", settings.sampler]
    if weights:
        words += ["--weights", weights]
    if form.class_id is not None:
        words += ["--class", str(form.class_id)]
    if settings.schedule != default.schedule:
        words += ["--set", f"sample.schedule={settings.schedule}"]
    if settings.guidance != default.guidance:
        words += ["--guidance", exact(settings.guidance)]
    if settings.guidance_interval != default.guidance_interval:
        words += ["--guidance-interval", ":".join(map(exact, settings.guidance_interval or ()))]
    return words


def exact(number: float) -> str:
    """Return the shortest text of the same number."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)
