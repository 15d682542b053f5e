"""Sampling with a live view: the images of a job, including unfinished ones, while its sampler runs."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.samplers.sampler_state import SamplerStep
from hdit_core.generate.job import SamplingJob
from hdit_core.generate.output.sample_format import SampleFormat
from hdit_core.generate.pipeline import OnStep, SamplingPipeline
from hdit_core.play.background import Report, newest_results
from hdit_core.play.request import SampleForm

SECONDS_BETWEEN_FRAMES = 0.25
MOST_MOMENTS, MOST_IN_MOMENT = 24, 16  # of a trajectory
LARGEST_TRAJECTORY_BYTES = 64 << 20

MakeJob = Callable[[OnStep], SamplingJob]
"""(what its pipeline calls at each sampler step) -> the job."""


@dataclass(frozen=True)
class Moment:
    """The first images of a job as they are denoised at one sampler step.

    Attributes:
        images: denoised, of the first batch.
        text: the step and its noise level.
    """

    images: Sequence[UInt8[np.ndarray, "H W C"]]
    text: str


@dataclass
class Trajectory:
    """Some moments of a sampler run, evenly spaced however many steps it has."""

    moments: list[Moment] = field(default_factory=list)
    every: int = 1
    steps: int = 0

    def add(self, images: Sequence[UInt8[np.ndarray, "H W C"]], text: str) -> None:
        """Keep a step, or leave it out if there are many."""
        if self.steps % self.every == 0:
            room = LARGEST_TRAJECTORY_BYTES // (MOST_MOMENTS * images[0].nbytes)
            self.moments.append(Moment(images[: max(1, min(MOST_IN_MOMENT, room))], text))
        self.steps += 1
        if len(self.moments) > MOST_MOMENTS:
            self.moments, self.every = self.moments[::2], self.every * 2


@dataclass(frozen=True)
class Frame:
    """The images of a job at one moment.

    Attributes:
        images: finished ones, then the denoised images of the batch that is being sampled.
        captions: one for each image of the job.
        indices: of all images of the job.
        text: how far it is.
        is_last: whether all images are finished.
        trajectory: of the first images, when all are finished.
    """

    images: Sequence[UInt8[np.ndarray, "H W C"]]
    captions: Sequence[str]
    indices: Sequence[int]
    text: str
    is_last: bool = False
    trajectory: Sequence[Moment] = ()


@dataclass
class _Progress:
    """Reports the frames of one job, at most a few a second; the job is known once its pipeline has been built."""

    report: Report[Frame]
    seconds: float
    class_names: Sequence[str]
    job: SamplingJob | None = None
    finished: list[UInt8[np.ndarray, "H W C"]] = field(default_factory=list)
    shown_at: float = 0.0
    trajectory: Trajectory = field(default_factory=Trajectory)

    def on_step(self, step: SamplerStep) -> None:
        """Report the denoised images of a step."""
        self.report.check()
        text = self._step_text(step)
        if not self.finished:
            self.trajectory.add(self.visible(step.denoised[:MOST_IN_MOMENT]), text)
        if time.monotonic() - self.shown_at >= self.seconds:
            self.shown_at = time.monotonic()
            self.show(self.visible(step.denoised), text)

    def _step_text(self, step: SamplerStep) -> str:
        """Return the noise level of a step, and which step it is: edits run parts of the schedule several times."""
        assert self.job is not None
        noise = f"noise level {step.sigma:.3g}"
        return noise if self.job.generate_batch else f"step {step.index + 1} of {step.steps}, {noise}"

    def visible(self, images: Float[Tensor, "B C H W"]) -> list[UInt8[np.ndarray, "H W C"]]:
        """Return images as 8-bit grayscale or RGB."""
        assert self.job is not None
        sample_format = SampleFormat(self.job.pixels)
        return [sample_format.shown(pixels) for pixels in sample_format.stored(images.float().cpu())]

    def show(self, unfinished: Sequence[UInt8[np.ndarray, "H W C"]], text: str = "") -> None:
        """Report the finished images and those of the current batch."""
        job = self.job
        assert job is not None
        done, total = len(self.finished), len(job.indices)
        captions = [self._caption(index, job.class_of(index)) for index in job.indices]
        line = ", ".join(filter(None, [f"{done} of {total} images", text]))
        images, moments = [*self.finished, *unfinished], self.trajectory.moments
        is_last = done == total
        self.report(Frame(images, captions, list(job.indices), line, is_last, moments if is_last else ()))

    def _caption(self, index: int, class_id: int | None) -> str:
        assert self.job is not None
        if class_id is None:
            return f"image {index}"
        is_none = class_id == self.job.pipeline.num_classes
        return f"image {index}, {'no class' if is_none else class_label(class_id, self.class_names)}"


def class_label(class_id: int, names: Sequence[str]) -> str:
    """Return the name of a class; "class 3" where it has none but its number."""
    name = " ".join(names[class_id].split()) if class_id < len(names) else ""
    return f"class {class_id}" if name in ("", str(class_id)) else name


def watch(
    make_job: MakeJob,
    stop: threading.Event,
    seconds: float = SECONDS_BETWEEN_FRAMES,
    class_names: Sequence[str] = (),
) -> Iterator[Frame]:
    """Yield the newest frame of a job until all of its images are finished.

    Args:
        make_job: builds the job, in the thread that samples.
        stop: set to stop after the current sampler step.
        seconds: between the frames of unfinished images.
        class_names: of the network, in index order; empty if they are unknown.

    Raises:
        Stopped: it was stopped.
        HditError: as `SamplingJob` and its batches.
    """

    def work(report: Report[Frame]) -> None:
        progress = _Progress(report, seconds, class_names)
        progress.job = make_job(progress.on_step)
        for batch in progress.job.batches(progress.job.indices):
            progress.finished += progress.visible(batch.images)
            progress.show([])

    yield from newest_results(work, stop)


def pipeline_of(denoiser: Denoiser, form: SampleForm, on_step: OnStep) -> SamplingPipeline:
    """Return the pipeline of `hdit sample` for what a visitor asks for."""
    return SamplingPipeline(denoiser, form.settings, form.seed, denoiser.recipe.model.image_size, on_step=on_step)


def samples(denoiser: Denoiser, form: SampleForm) -> MakeJob:
    """Return the job of `hdit sample` for what a visitor asks for."""
    return lambda on_step: SamplingJob(pipeline_of(denoiser, form, on_step), range(form.count), form.class_id)
