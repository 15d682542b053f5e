"""Asynchronous checkpoints: a copy of the state is written to disk while training continues."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from hdit_core.checkpoint.retention import prune
from hdit_core.checkpoint.save import Parts, save_checkpoint
from hdit_core.checkpoint.state import State
from hdit_core.distributed import World
from hdit_core.recipe.run import Recipe
from hdit_core.train.parallel.sharded_tensors import full_tensors_on_cpu

logger = logging.getLogger("hdit")


class AsyncCheckpointer:
    """Writes the checkpoints of a run, one at a time.

    `save` and `finish` are collective operations; the main rank writes. As a context, it waits for the last save when
    training fails.
    """

    def __init__(
        self,
        run: Path,
        recipe: Recipe,
        world: World,
        on_saved: Callable[[State, Path], None] = lambda state, folder: None,
        step: int | None = None,
    ) -> None:
        """
        Args:
            on_saved: called by `poll` or `finish` for every checkpoint that was written and read back.
            step: of the checkpoint that the run started from.
        """
        self.step = step  # of the newest checkpoint whose save has begun
        self._run, self._recipe, self._world = run, recipe, world
        self._on_saved = on_saved
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: tuple[State, Future[Path]] | None = None
        self.slowest_s = 0.0  # of the saves so far, on the main rank

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._pending is not None and not self._pending[1].done()

    def save(self, state: State, parts: Parts) -> None:
        """Copy the tensors and start to write them; they may change as soon as this returns.

        Raises:
            CheckpointError: the save before this one failed.
            HditError: on the other ranks, for the same reason.
        """
        self.finish()
        self._begin(state, parts, self._world)

    def save_alone(self, state: State, parts: Parts) -> None:
        """Write a checkpoint, unless it exists, and wait for it; on the main rank alone, since others may be gone.

        Args:
            parts: tensors that are not sharded.

        Raises:
            CheckpointError: this save or the one before it failed.
        """
        self._settle()
        if self.step != state.step:
            self._begin(state, parts, World())
            self._settle()

    def poll(self) -> bool:
        """Report a save that is done; return whether it failed, which `finish` then raises on all ranks."""
        if self._pending is None or not self._pending[1].done():
            return False
        if self._pending[1].exception():
            return True
        self._settle()
        return False

    def finish(self) -> None:
        """Wait for the pending save.

        Raises:
            CheckpointError: it failed.
            HditError: on the other ranks, for the same reason.
        """
        self._world.on_main_rank(self._settle)

    def __enter__(self) -> "AsyncCheckpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self._settle()
        except Exception as problem:
            if kind is None:
                raise
            logger.warning(str(problem))
        finally:
            self._writer.shutdown()

    def _begin(self, state: State, parts: Parts, world: World) -> None:
        copies = {name: full_tensors_on_cpu(tensors, world) for name, tensors in parts.items()}
        self.step = state.step
        if world.is_main:
            self._pending = state, self._writer.submit(self._write, state, copies)

    def _settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._on_saved(pending[0], pending[1].result())

    def _write(self, state: State, parts: Parts) -> Path:
        began_at = time.perf_counter()
        folder = save_checkpoint(self._run, self._recipe, state, parts)
        self.slowest_s = max(self.slowest_s, time.perf_counter() - began_at)
        prune(self._run, self._recipe.train, just_read=folder)
        return folder
