"""The training loop: step by step, with log lines, checkpoints, sample grids and scores, until the end or a stop."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from hdit_core import jsonl
from hdit_core.checkpoint.ema.snapshots import remove_snapshots_after
from hdit_core.checkpoint.layout import log_file, stop_file
from hdit_core.checkpoint.log import cut_back_log
from hdit_core.checkpoint.save import Parts
from hdit_core.checkpoint.state import State
from hdit_core.data.format.retry_reads import StorageUnavailable
from hdit_core.data.loader.quarantine import Quarantine
from hdit_core.data.loader.workers import translate_worker_errors
from hdit_core.errors import StoppedEarly, WaitInterrupted
from hdit_core.train.async_checkpoint import AsyncCheckpointer
from hdit_core.train.evaluation import PeriodicEvaluation, open_scores
from hdit_core.train.interrupted_step import InterruptedStep
from hdit_core.train.monitor.callbacks import Progress
from hdit_core.train.monitor.metrics import log_fields, next_state, with_new_log_window
from hdit_core.train.monitor.rollback import StepGuard
from hdit_core.train.monitor.run_status import RunStatusWriter
from hdit_core.train.monitor.throughput import image_flops, peak_bytes, peak_flops_per_s
from hdit_core.train.monitor.trackers import Trackers, open_trackers
from hdit_core.train.optim.lr_schedule import lr_factor
from hdit_core.train.optim.optimizer import optimizer_tensors
from hdit_core.train.parallel.parallelize import is_sharded
from hdit_core.train.preemption import Deadline, StopRequest, job_end_s, stop_signals
from hdit_core.train.run_context import RunContext
from hdit_core.train.sample_grid import write_sample_grid
from hdit_core.train.step.batch_plan import PlannedStep, steps
from hdit_core.train.step.dataloader import TimedLoader, build_dataloader
from hdit_core.train.step.result import NotFinite, StepResult
from hdit_core.train.step.train_step import Learner
from hdit_core.train.step.update_gate import UpdateGate

logger = logging.getLogger("hdit")


class Trainer:
    """The loop over the steps of a run. `hdit_core.train.run.train` makes one; its only method is `fit`."""

    def __init__(self, context: RunContext, learner: Learner, start: State, is_saved: bool = True) -> None:
        """
        Args:
            is_saved: whether the start can be restored from disk; if not, the run begins by saving it.
        """
        self._context, self._learner, self._state = context, learner, start
        self._recipe, self._run, self._world = context.recipe, context.folder, context.world
        self._status = RunStatusWriter(self._run, self._world.is_main, start if is_saved else None)
        saved_step = start.step if is_saved else None
        self._saver = AsyncCheckpointer(self._run, self._recipe, self._world, self._on_saved, saved_step)
        self._guard = StepGuard(self._recipe, self._run, context.reader, self._world)
        if self._world.is_main:
            cut_back_log(self._run, start.step)
        self._trackers = Trackers()
        self._scores: PeriodicEvaluation | None = None
        self._peak_flops_per_s = peak_flops_per_s(self._world.device, learner.dtype)
        self._gate, self._step_s = UpdateGate(learner.optimizer), 0.0
        self._interrupted = InterruptedStep(
            context,
            self._saver,
            self._status,
            self._gate,
            lambda: (self._state, self._parts()),
            is_sharded(learner.ema.network),
        )
        self._quarantine = Quarantine(self._recipe.data.max_damaged, start.memory.damaged)

    def fit(self) -> State:
        """Train to the end and return the final state.

        Raises:
            StoppedEarly: a signal or the stop file asked for it; everything is saved.
            NumericalError: the loss or the gradient is not finite; the newest checkpoint is from before that step.
            RollBack: they were not finite, or a spike, and the recipe allows to skip those images.
            DataError: an image cannot be read.
            CheckpointError: a checkpoint cannot be saved.
            HditError: the main rank failed, and this is another one.
        """
        deadline = Deadline(job_end_s(os.environ), lambda: self._saver.slowest_s)
        names = self._context.callbacks.trackers if self._world.is_main else ()
        with (
            stop_signals(stop_file(self._run), deadline) as stop,
            translate_worker_errors(),
            open_trackers(names, self._run, self._recipe, self._state.num_images) as self._trackers,
            closing(self._batches()) as batches,
            self._saver,
        ):
            if self._world.is_main:
                remove_snapshots_after(self._run, self._state.num_images)
            self._interrupted.share_requests(stop, lambda: self._step_s)
            self._status.write("running")
            self._save()
            with stop.during("the statistics of the reference images"):
                self._scores = open_scores(self._context, self._learner, self._state)
            self._score(stop)
            self._stop_if_asked(stop)
            with stop.during("the run to stop"):
                self._train(batches, stop)
            self._save()
            self._saver.finish()
        self._status.write("done")
        return self._state

    def _train(self, batches: TimedLoader, stop: StopRequest) -> None:
        batches.waiting = stop.interrupting
        for step in self._steps_left():
            try:
                self._take(step, batches, stop)
                self._score(stop)
                self._stop_if_asked(stop)
            except WaitInterrupted as problem:
                if self._world.size == 1:
                    self._stop_here(stop)  # the weights are those of the last whole step
                self._interrupted.end(stop, problem)
            except (StorageUnavailable, RuntimeError) as problem:
                self._interrupted.end(stop, problem)

    def _steps_left(self) -> Iterator[PlannedStep]:
        return steps(self._recipe.train, self._state.step, self._state.num_images, self._state.skips)

    def _batches(self) -> TimedLoader:
        return build_dataloader(
            self._recipe,
            self._context.reader,
            self._steps_left(),
            self._learner.micro_batches,
            self._state.skips,
            quarantine=self._quarantine,
        )

    def _take(self, step: PlannedStep, batches: TimedLoader, stop: StopRequest) -> None:
        """Take one step, and run the periodic actions that are due after it."""
        with stop.during(f"step {step.number + 1} to end", can_abandon=True):
            self._update(step, batches)
        last = self._state.num_images >= self._recipe.train.num_images
        for every, activity, action in self._periodic_actions():
            if every and (last or _crosses(every, step)):
                with stop.during(activity):
                    action()

    def _update(self, step: PlannedStep, batches: TimedLoader) -> None:
        began_at_s, waited_s = time.perf_counter(), batches.waited_s
        result = self._checked_step(step, batches)
        elapsed_s = time.perf_counter() - began_at_s - result.compile_s
        if self._quarantine.limit:
            self._quarantine.count(self._world.union, self._context.reader.where)
        self._state = next_state(
            self._state,
            step,
            result,
            flops=float(step.batch_size * image_flops(self._recipe.model, batches.image_size)),
            elapsed_s=elapsed_s,
            waited_s=batches.waited_s - waited_s,
            spikes=self._guard.spikes(step, result, self._state),
            damaged=dict(self._quarantine.damaged),
        )
        self._gate.step_ended()
        self._step_s = elapsed_s
        self._report_progress(step)

    def _periodic_actions(self) -> list[tuple[int, str, Callable[[], None]]]:
        """Return the actions with their intervals in images (0: never), in the order in which they have to run."""
        train = self._recipe.train
        return [
            (train.log_every_images, "the log", self._write_log),
            # before the checkpoint, whose step is not repeated
            (train.snapshot_every_images, "an EMA snapshot to be written", self._snapshot),
            (train.checkpoint_every_images, "the checkpoint before to be written", self._save),
            (train.sample_every_images, "the sample grid", self._write_sample_grid),
        ]

    def _checked_step(self, step: PlannedStep, batches: TimedLoader) -> StepResult:
        try:
            result = self._learner.train_step(step, batches)
        except NotFinite as problem:
            self._guard.not_finite(step, problem, self._state)
        if result.compile_s:
            logger.info("compiled in %.0f s", result.compile_s)
        return result

    def _report_progress(self, step: PlannedStep) -> None:
        window, state = self._state.memory.interval, self._state
        progress = Progress(
            state.step,
            state.num_images,
            self._recipe.train.num_images,
            loss=window.loss / window.steps,
            grad_norm=window.grad_norm / window.steps,
            lr=lr_factor(self._recipe.train, step.num_images) * self._recipe.train.lr,
            images_per_s=window.num_images / max(window.elapsed_s, 1e-9),
        )
        self._status.write_if_due(progress)
        self._context.callbacks.on_step(progress)

    def _write_log(self) -> None:
        """Write a line of the log, and start a new window, on all ranks."""
        state, progress = self._state, self._status.progress
        assert progress is not None  # there was a step
        fields = log_fields(state.memory.interval)
        self._state = with_new_log_window(state)
        if not self._world.is_main:
            return
        position = {"step": state.step, "num_images": state.num_images, "lr": progress.lr, "elapsed_s": state.elapsed_s}
        if self._peak_flops_per_s:
            fields["utilisation"] = fields["flops_per_s"] / (self._peak_flops_per_s * self._world.size)
        if self._quarantine.limit:
            fields["damaged_images"] = len(self._quarantine.damaged)
        record = position | fields | {"peak_bytes": peak_bytes(self._world.device)}
        jsonl.append(log_file(self._run), record)
        self._trackers.add_record(record)
        self._context.callbacks.on_progress(progress)

    def _write_sample_grid(self) -> None:
        if self._learner.is_sampling:
            path = write_sample_grid(self._learner, self._run, self._state.num_images, self._context.reader)
            if path is None:
                logger.warning("no sample grid: the data set has no intact images of model.image_size")
                return
            logger.info("samples: %s", path)
            self._trackers.add_sheet(path, self._state.num_images)

    def _snapshot(self) -> None:
        self._learner.profiles.write_snapshots(self._run, self._recipe, self._state.num_images, self._world)

    def _score(self, stop: StopRequest) -> None:
        """Evaluate the EMA weights if that is due, after saving them."""
        if self._scores is not None and self._scores.due(self._state):
            with stop.during("the checkpoint to be written"):
                self._save()
                self._saver.finish()
            with stop.during("the evaluation"):
                self._scores.take(self._state, stop.raised)

    def _save(self) -> None:
        """Start to save, unless this step is saved already."""
        if self._saver.step != self._state.step:
            self._saver.save(self._state, self._parts())

    def _parts(self) -> Parts:
        network = self._learner.ema.source
        return {
            "model": dict(network.state_dict()),
            "ema": dict(self._learner.ema.network.state_dict()),
            "optimizer": optimizer_tensors(self._learner.optimizer, network),
        } | self._learner.profiles.parts()

    def _on_saved(self, state: State, folder: Path) -> None:
        self._status.saved = state
        self._status.write("running")
        logger.info("saved %s", folder)

    def _stop_if_asked(self, stop: StopRequest) -> None:
        """Stop if a save failed or any rank was asked to stop; a collective operation."""
        failed = self._saver.poll()
        with stop.during("the other ranks", can_abandon=True):
            asked = self._world.any(failed or stop.raised())
        if asked:
            self._stop_here(stop)

    def _stop_here(self, stop: StopRequest) -> None:
        if self._saver.is_busy:
            logger.info("stopping: waiting for the checkpoint that is being written")
        with stop.during("the checkpoint to be written"):
            self._saver.finish()  # raises if a save failed
            stop.raised()  # sets the reason if another rank saw the stop file first
            stop_file(self._run).unlink(missing_ok=True)
            if self._state.num_images >= self._recipe.train.num_images:
                return
            self._save()
            self._saver.finish()
        reason = stop.reason or "another rank"
        self._status.write("preempted", reason=reason)
        raise StoppedEarly(
            f"{self._run}: stopped by {reason} after step {self._state.step} ({self._state.num_images} images); "
            f"everything is saved. To resume: hdit train --resume {self._run}"
        )


def _crosses(every: int, step: PlannedStep) -> bool:
    """Return whether a step passes a multiple of `every` images."""
    return step.num_images // every != (step.num_images + step.batch_size) // every
