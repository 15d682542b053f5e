"""The training loop: step by step, with checkpoints and sample grids on the way, until the end or a request to stop."""

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from hdit_core.checkpoint.ema.snapshots import remove_snapshots_after
from hdit_core.checkpoint.layout import stop_file
from hdit_core.checkpoint.log import Log
from hdit_core.checkpoint.state import State
from hdit_core.checkpoint.status import RunStatus, write_status
from hdit_core.data.loader.quarantine import Quarantine
from hdit_core.data.loader.reader import ImageReader
from hdit_core.data.loader.workers import translate_worker_errors
from hdit_core.errors import StoppedEarly
from hdit_core.train.async_checkpoint import AsyncCheckpointer
from hdit_core.train.evaluation import PeriodicEvaluation, open_scores
from hdit_core.train.monitor.callbacks import Callbacks, Progress
from hdit_core.train.monitor.incidents import Incidents, StepGuard
from hdit_core.train.monitor.metrics import log_fields, next_state, with_new_log_window
from hdit_core.train.monitor.throughput import image_flops, peak_bytes, peak_flops_per_s
from hdit_core.train.monitor.trackers import Trackers, open_trackers
from hdit_core.train.optim.lr_schedule import lr_factor
from hdit_core.train.optim.optimizer import optimizer_tensors
from hdit_core.train.preemption import Deadline, StopRequest, job_end_s, stop_signals
from hdit_core.train.sample_grid import draw_grid
from hdit_core.train.step.batch_plan import PlannedStep, steps
from hdit_core.train.step.dataloader import TimedLoader, build_dataloader
from hdit_core.train.step.result import NotFinite, StepResult
from hdit_core.train.step.train_step import Learner


class Trainer:
    """A run at work. `hdit_core.train.run.train` makes one; its only method is `fit`."""

    def __init__(
        self,
        learner: Learner,
        reader: ImageReader,
        run: Path,
        start: State,
        callbacks: Callbacks,
        is_saved: bool = True,
    ) -> None:
        """
        Args:
            is_saved: whether the run can begin again from here; if not, the first thing it does is to save.
        """
        self._learner = learner
        self._recipe = learner.recipe
        self._reader = reader
        self._run = run
        self._state = start
        self._callbacks = callbacks
        self._saved_step = start.step if is_saved else None
        self._saver = AsyncCheckpointer(run, self._recipe, learner.world, self._on_saved, callbacks.on_note)
        self._boards = Trackers()
        self._scores: PeriodicEvaluation | None = None
        incidents = Incidents(run, self._recipe, reader, learner.world)
        self._alarm = StepGuard(self._recipe.train, incidents, callbacks.on_note)
        self._peak_flops_per_s = peak_flops_per_s(learner.device, learner.dtype)
        self._images_per_s: float | None = None  # of the last interval
        most = self._recipe.data.max_damaged
        self._damaged, self._damaged_here = (
            Quarantine(most, callbacks.on_note),
            Quarantine(most),
        )  # on all ranks, on this
        for quarantine in (self._damaged, self._damaged_here):
            quarantine.damaged.update(start.memory.damaged)

    def fit(self) -> State:
        """Train to the end and return where the run stands.

        Raises:
            StoppedEarly: a signal or the stop file asked for it; everything is saved.
            NumericalError: the loss or the gradient is not finite; the newest checkpoint is from before it.
            RollBack: they were not, or were a spike, and the recipe lets the run go back and pass over those images.
            DataError: an image cannot be read.
            CheckpointError: a checkpoint cannot be saved.
            HditError: the main rank failed, and this is another.
        """
        deadline = Deadline(job_end_s(os.environ), lambda: self._saver.slowest_s)
        listening = stop_signals(stop_file(self._run), deadline)
        names = self._callbacks.trackers if self._learner.world.is_main else ()
        boards = open_trackers(names, self._run, self._recipe, self._state.num_images)
        with (
            listening as stop,
            translate_worker_errors(),
            boards as self._boards,
            closing(self._feed()) as batches,
            self._saver,
        ):
            log = Log(self._run, self._state.step) if self._learner.world.is_main else None
            if log is not None:
                remove_snapshots_after(self._run, self._state.num_images)
            self._write_status("running")
            self._save()
            self._scores = open_scores(self._learner, self._run, self._state, self._callbacks.on_note)
            self._score(stop)
            self._stop_if_asked(stop)
            for step in self._steps_left():
                self._take(step, batches, log)
                self._score(stop)
                self._stop_if_asked(stop)
            self._save()
            self._saver.finish()
        self._write_status("done")
        return self._state

    def _steps_left(self) -> Iterator[PlannedStep]:
        return steps(self._recipe.train, self._state.step, self._state.num_images, self._state.skips)

    def _feed(self) -> TimedLoader:
        plan, pieces = self._steps_left(), self._learner.micro_batches
        return build_dataloader(
            self._recipe, self._reader, plan, pieces, self._state.skips, quarantine=self._damaged_here
        )

    def _count_damaged(self) -> None:
        """Tell all ranks which images are damaged: they count alike, and end at the same step if there are too many."""
        if self._damaged.limit:
            here, known = self._damaged_here.damaged, self._damaged.damaged
            found = self._learner.world.union(here.keys() - known.keys())
            self._damaged.add({index: here.get(index) or self._reader.where(index) for index in found})

    def _take(self, step: PlannedStep, batches: TimedLoader, log: Log | None) -> None:
        """Take one step, and do what falls due with it."""
        began_at, waited_s = time.perf_counter(), batches.waited_s
        result = self._update(step, batches)
        elapsed_s = time.perf_counter() - began_at - result.compile_s
        self._count_damaged()
        self._state = next_state(
            self._state,
            step,
            result,
            flops=float(step.batch_size * image_flops(self._recipe.model, batches.image_size)),
            elapsed_s=elapsed_s,
            waited_s=batches.waited_s - waited_s,
            spikes=self._alarm.spikes(step, result, self._state),
            damaged=dict(self._damaged.damaged),
        )
        train, last = self._recipe.train, self._state.num_images >= self._recipe.train.num_images
        if last or _crosses(train.log_every_images, step):
            self._report(log, lr_factor(train, step.num_images) * train.lr)
        if (last and train.snapshot_every_images) or _crosses(train.snapshot_every_images, step):
            self._snapshot()  # before a checkpoint, from which the run would not come by this step again
        if last or _crosses(train.checkpoint_every_images, step):
            self._save()
        if last or _crosses(train.sample_every_images, step):
            self._draw_grid()

    def _update(self, step: PlannedStep, batches: TimedLoader) -> StepResult:
        """Let the learner take a step, and look whether it went wrong."""
        try:
            result = self._learner.train_step(step, batches)
        except NotFinite as problem:
            self._alarm.not_finite(step, problem, self._state)
        if result.compile_s:
            self._callbacks.on_note(f"compiled in {result.compile_s:.0f} s")
        return result

    def _report(self, log: Log | None, lr: float) -> None:
        """Write a line of the log, and begin a new interval, on all ranks."""
        fields, state = log_fields(self._state.memory.interval), self._state
        self._state = with_new_log_window(state)
        self._images_per_s = fields["images_per_s"]
        if log is None:
            return
        where = {"step": state.step, "num_images": state.num_images, "lr": lr, "elapsed_s": state.elapsed_s}
        if self._peak_flops_per_s:
            fields["utilisation"] = fields["flops_per_s"] / (self._peak_flops_per_s * self._learner.world.size)
        if self._damaged.limit:
            fields["damaged_images"] = len(self._damaged.damaged)
        record = where | fields | {"peak_bytes": peak_bytes(self._learner.device)}
        log.write(record)
        self._boards.add_record(record)
        means = (fields["loss"], fields["grad_norm"], lr, fields["images_per_s"])
        self._callbacks.on_progress(Progress(state.step, state.num_images, self._recipe.train.num_images, *means))

    def _draw_grid(self) -> None:
        if self._recipe.train.sample_every_images and self._learner.draws:
            classes = self._reader.manifest.contents.classes
            path = draw_grid(self._learner, self._run, self._state.num_images, tuple(classes or ()))
            self._callbacks.on_note(f"samples: {path}")
            self._boards.add_sheet(path, self._state.num_images)

    def _snapshot(self) -> None:
        world = self._learner.world
        self._learner.profiles.write_snapshots(self._run, self._recipe, self._state.num_images, world)

    def _score(self, stop: StopRequest) -> None:
        """Score the run where it stands, if that is due; what is scored is saved first."""
        if self._scores is not None and self._scores.due(self._state):
            self._save()
            self._saver.finish()
            self._scores.take(self._state, stop.raised)

    def _save(self) -> None:
        """Begin to save, unless this very step is saved already."""
        if self._saved_step == self._state.step:
            return
        network = self._learner.ema.source
        parts = {
            "model": dict(network.state_dict()),
            "ema": dict(self._learner.ema.network.state_dict()),
            "optimizer": optimizer_tensors(self._learner.optimizer, network),
        } | self._learner.profiles.parts()
        self._saver.save(self._state, parts)
        self._saved_step = self._state.step

    def _on_saved(self, state: State, folder: Path) -> None:
        self._write_status("running", state)
        self._callbacks.on_note(f"saved {folder}")

    def _stop_if_asked(self, stop: StopRequest) -> None:
        """End here if a save failed, or some rank was asked to stop; all ranks come by together."""
        failed = self._saver.poll()
        if self._learner.world.any(failed or stop.raised()):
            self._stop_here(stop)

    def _stop_here(self, stop: StopRequest) -> None:
        self._saver.finish()  # raises what was the matter, if it was no request but a save that failed
        stop.raised()  # names the file where another rank saw it first
        stop_file(self._run).unlink(missing_ok=True)
        if self._state.num_images >= self._recipe.train.num_images:
            return
        self._save()
        self._saver.finish()
        reason = stop.reason or "another rank"
        self._write_status("preempted", reason=reason)
        raise StoppedEarly(
            f"{self._run}: stopped by {reason} after step {self._state.step} "
            f"({self._state.num_images} images); all is saved, and the same command goes on from here"
        )

    def _write_status(self, standing: RunStatus, state: State | None = None, **more: str) -> None:
        if self._learner.world.is_main:
            state = state or self._state
            speed = {"images_per_s": self._images_per_s} if self._images_per_s else {}
            write_status(self._run, standing, state.step, state.num_images, **speed, **more)


def _crosses(every: int, step: PlannedStep) -> bool:
    """Return whether a multiple of `every` images lies within a step; never for 0."""
    return bool(every) and step.num_images // every != (step.num_images + step.batch_size) // every
