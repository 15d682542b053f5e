"""The training loop: step by step, with checkpoints and sample grids on the way, until the end or a request to stop."""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

from hdit_core.checkpoint.layout import stop_file
from hdit_core.checkpoint.state import State
from hdit_core.data.batch import Batch, load_batches
from hdit_core.data.opening import order_of
from hdit_core.data.quarantine import Quarantine
from hdit_core.data.reader import ImageReader
from hdit_core.data.workers import naming_dead_workers
from hdit_core.errors import StoppedEarly
from hdit_core.train.grids import draw_grid
from hdit_core.train.log import Log
from hdit_core.train.optimizer import optimizer_tensors
from hdit_core.train.plan import Step, parts, steps
from hdit_core.train.preempt import StopRequest, listen
from hdit_core.train.result import StepResult
from hdit_core.train.saving import Saver
from hdit_core.train.schedule import lr_factor
from hdit_core.train.status import Standing, write_status
from hdit_core.train.step import Learner
from hdit_core.train.watching import Progress, Watcher


class Trainer:
    """A run at work. `hdit_core.train.run.train` makes one; its only method is `fit`."""

    def __init__(self, learner: Learner, reader: ImageReader, run: Path, start: State, watcher: Watcher) -> None:
        self._learner = learner
        self._recipe = learner.recipe
        self._reader = reader
        self._run = run
        self._state = start
        self._watcher = watcher
        self._saved_step = start.step
        self._saver = Saver(run, self._recipe, learner.world, learner.device, self._on_saved, watcher.on_note)
        self._interval = Interval()
        most = self._recipe.data.max_damaged
        self._damaged, self._damaged_here = Quarantine(most, watcher.on_note), Quarantine(most)  # on all ranks, on this

    def fit(self) -> State:
        """Train to the end and return where the run stands.

        Raises:
            StoppedEarly: a signal or the stop file asked for it; everything is saved.
            NumericalError: the loss or the gradient is not finite; the newest checkpoint is from before it.
            DataError: an image cannot be read.
            CheckpointError: a checkpoint cannot be saved.
            HditError: the main rank failed, and this is another.
        """
        listening = listen(stop_file(self._run))
        with listening as stop, naming_dead_workers(), closing(self._load()) as loader, self._saver:
            log = Log(self._run, self._state.step) if self._learner.world.is_main else None
            self._write_status("running")
            for step in steps(self._recipe.train, self._state.step, self._state.num_images):
                self._take(step, loader, log)
                failed = self._saver.poll()
                if self._learner.world.any(failed or stop.raised(), self._learner.device):
                    self._stop_here(stop)
            self._save()
            self._saver.finish()
        self._write_status("done")
        return self._state

    def _load(self) -> Generator[Batch, None, None]:
        train, data = self._recipe.train, self._recipe.data
        left = steps(train, self._state.step, self._state.num_images)
        yield from load_batches(
            self._reader,
            (piece for step in left for piece in self._learner.pieces(step)),
            seed=train.seed,
            workers=data.workers,
            augment_prob=data.augment_prob,
            class_dropout=train.class_dropout,
            num_classes=self._recipe.model.num_classes,
            order=order_of(data, self._reader.manifest.contents, train.seed, parts(train)),
            quarantine=self._damaged_here,
        )

    def _count_damaged(self) -> None:
        """Tell all ranks which images are damaged: they count alike, and end at the same step if there are too many."""
        if self._damaged.limit:
            here, known = self._damaged_here.damaged, self._damaged.damaged
            found = self._learner.world.union(here.keys() - known.keys(), self._learner.device)
            self._damaged.add({index: here.get(index) or self._reader.where(index) for index in found})

    def _take(self, step: Step, loader: Iterator[Batch], log: Log | None) -> None:
        """Take one step, and do what falls due with it."""
        began_at = time.perf_counter()
        result = self._learner.update(step, loader)
        elapsed_s = time.perf_counter() - began_at - result.compile_s
        if result.compile_s:
            self._watcher.on_note(f"compiled in {result.compile_s:.0f} s")
        self._count_damaged()
        self._interval.add(result, step.batch_size, elapsed_s)
        after = step.num_images + step.batch_size
        self._state = self._state.model_copy(
            update={"step": step.number + 1, "num_images": after, "elapsed_s": self._state.elapsed_s + elapsed_s}
        )
        train, last = self._recipe.train, after >= self._recipe.train.num_images
        if log is not None and (last or _crosses(train.log_every_images, step)):
            self._report(log, lr_factor(train, step.num_images) * train.lr)
        if last or _crosses(train.checkpoint_every_images, step):
            self._save()
        if last or _crosses(train.sample_every_images, step):
            self._draw_grid()

    def _report(self, log: Log, lr: float) -> None:
        loss, grad_norm, images_per_s = self._interval.means()
        compile_s, state, self._interval = self._interval.compile_s, self._state, Interval()
        log.write(
            {"step": state.step, "num_images": state.num_images, "loss": loss, "grad_norm": grad_norm, "lr": lr}
            | {"images_per_s": images_per_s, "elapsed_s": state.elapsed_s}
            | ({"compile_s": compile_s} if compile_s else {})
            | ({"damaged_images": len(self._damaged.damaged)} if self._damaged.limit else {})
        )
        total = self._recipe.train.num_images
        self._watcher.on_progress(Progress(state.step, state.num_images, total, loss, grad_norm, lr, images_per_s))

    def _draw_grid(self) -> None:
        if self._recipe.train.sample_every_images and self._learner.world.is_main:
            classes = self._reader.manifest.contents.classes
            path = draw_grid(self._learner, self._run, self._state.num_images, tuple(classes or ()))
            self._watcher.on_note(f"samples: {path}")

    def _save(self) -> None:
        """Begin to save, unless this very step is saved already."""
        if self._saved_step == self._state.step:
            return
        network = self._learner.ema.source
        parts = {
            "model": dict(network.state_dict()),
            "ema": dict(self._learner.ema.network.state_dict()),
            "optimizer": optimizer_tensors(self._learner.optimizer, network),
        }
        self._saver.save(self._state, parts)
        self._saved_step = self._state.step

    def _on_saved(self, state: State, folder: Path) -> None:
        write_status(self._run, "running", state.step, state.num_images)
        self._watcher.on_note(f"saved {folder}")

    def _stop_here(self, stop: StopRequest) -> None:
        self._saver.finish()  # raises what was the matter, if it was no request but a save that failed
        stop_file(self._run).unlink(missing_ok=True)
        if self._state.num_images >= self._recipe.train.num_images:
            return
        self._save()
        self._saver.finish()
        self._write_status("preempted")
        raise StoppedEarly(
            f"{self._run}: stopped by {stop.reason or 'another rank'} after step {self._state.step} "
            f"({self._state.num_images} images); all is saved, and the same command goes on from here"
        )

    def _write_status(self, state: Standing) -> None:
        if self._learner.world.is_main:
            write_status(self._run, state, self._state.step, self._state.num_images)


class Interval:
    """Sums since the last report."""

    def __init__(self) -> None:
        self._loss = self._grad_norm = self._elapsed_s = 0.0
        self._steps = self._num_images = 0
        self.compile_s = 0.0

    def add(self, result: StepResult, num_images: int, elapsed_s: float) -> None:
        """Count one step."""
        self._loss += result.loss
        self._grad_norm += result.grad_norm
        self._elapsed_s += elapsed_s
        self.compile_s += result.compile_s
        self._steps += 1
        self._num_images += num_images

    def means(self) -> tuple[float, float, float]:
        """Return mean loss, mean gradient norm and images per second."""
        return self._loss / self._steps, self._grad_norm / self._steps, self._num_images / self._elapsed_s


def _crosses(every: int, step: Step) -> bool:
    """Return whether a multiple of `every` images lies within a step; never for 0."""
    return bool(every) and step.num_images // every != (step.num_images + step.batch_size) // every
