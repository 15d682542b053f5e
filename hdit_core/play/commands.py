"""What the page computes, with the hdit commands that give the same images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hdit_core.diffusion.precondition import Denoiser
from hdit_core.play.live_sampling import MakeJob, samples
from hdit_core.play.request import SampleForm
from hdit_core.recipe.sample import SampleRecipe


@dataclass(frozen=True)
class Command:
    """A command without its model and settings.

    Attributes:
        words: the command and its arguments, such as `edit vary image.png`.
        options: its own options.
        folder: name of the folder of its images.
        files: contents of the PNG files that it reads, by their names.
    """

    words: Sequence[str]
    options: Sequence[str]
    folder: str
    files: Mapping[str, bytes] = field(default_factory=dict)

    def line(self, path: str, weights: str | None, form: SampleForm, default: SampleRecipe) -> list[str]:
        """Return all words of the command.

        Args:
            path: of the model.
            weights: of the model; None if it has one kind only.
            form: the settings.
            default: the settings that the model has without options.
        """
        settings = form.settings
        line = ["hdit", *self.words, "--ckpt", path, *self.options, "--seed", str(form.seed)]
        line += ["--out", f"samples/{self.folder}"]
        line += ["--steps", str(settings.steps), "--sampler", settings.sampler]
        if weights:
            line += ["--weights", weights]
        if form.class_id is not None:
            line += ["--class", str(form.class_id)]
        if settings.schedule != default.schedule:
            line += ["--set", f"sample.schedule={settings.schedule}"]
        if settings.guidance != default.guidance:
            line += ["--guidance", exact(settings.guidance)]
        if settings.guidance_interval != default.guidance_interval:
            line += ["--guidance-interval", ":".join(map(exact, settings.guidance_interval or ()))]
        return line


@dataclass(frozen=True)
class Computation:
    """What a button of the page starts.

    Attributes:
        make_job: returns the job.
        command: gives the same images; None if there is none.
    """

    make_job: MakeJob
    command: Command | None


def sampling(denoiser: Denoiser, form: SampleForm, folder: str | None = None) -> Computation:
    """Return the computation of `hdit sample`.

    Args:
        denoiser, form: the network, and what to sample.
        folder: name of the folder of the command's images; None to name it after the seed.
    """
    command = Command(["sample"], ["--count", str(form.count)], folder or f"seed-{form.seed}")
    return Computation(samples(denoiser, form), command)


def exact(number: float) -> str:
    """Return the shortest text of the same number."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)
