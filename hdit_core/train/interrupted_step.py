"""The end of a run within a step that cannot be completed: the last whole step is saved, by the main rank alone."""

import logging
import os
from collections.abc import Callable
from typing import NoReturn

from hdit_core.checkpoint.layout import stop_file
from hdit_core.checkpoint.save import Parts
from hdit_core.checkpoint.state import State
from hdit_core.data.format.retry_reads import StorageUnavailable
from hdit_core.errors import CheckpointError, StoppedEarly, WaitInterrupted
from hdit_core.train.async_checkpoint import AsyncCheckpointer
from hdit_core.train.monitor.run_status import RunStatusWriter
from hdit_core.train.parallel.rank_failure import is_connection_error
from hdit_core.train.preemption import StopRequest
from hdit_core.train.run_context import RunContext
from hdit_core.train.step.update_gate import UpdateGate

logger = logging.getLogger("hdit")

PATIENCE_S = 5.0
"""For a step of several ranks to end after a request to stop, in addition to the time of two steps."""


class InterruptedStep:
    """Ends a run within a step. The weights are those of the last whole step, unless an update has begun."""

    def __init__(
        self,
        context: RunContext,
        saver: AsyncCheckpointer,
        status: RunStatusWriter,
        gate: UpdateGate,
        whole: Callable[[], tuple[State, Parts]],
        is_sharded: bool,
    ) -> None:
        """
        Args:
            whole: returns the state and the tensors of the last whole step.
            is_sharded: whether no rank has all tensors, so that none can save alone.
        """
        self._context, self._saver, self._status, self._gate = context, saver, status, gate
        self._whole, self._is_sharded = whole, is_sharded

    def share_requests(self, stop: StopRequest, step_s: Callable[[], float]) -> None:
        """Forward requests to stop to all ranks, and let a step of several ranks end first, within a time limit.

        Args:
            step_s: returns the duration of the last step.
        """
        world, failures = self._context.world, self._context.failures
        if world.size == 1:
            return
        stop.gives_up_steps = False
        failures.on_stop, stop.announce = stop.request, failures.announce_stop
        stop.patience_s = lambda: PATIENCE_S + 2 * step_s()
        if world.is_main and not self._is_sharded and world.device.type == "cpu":
            stop.abandon = lambda: self._abandon(stop)

    def end(self, stop: StopRequest, problem: BaseException) -> NoReturn:
        """End the run because a wait was interrupted, or because the data or another rank are gone.

        Raises:
            StoppedEarly: there was a request to stop, on any rank.
            StorageUnavailable: `problem`, and whether the last whole step is saved.
            RuntimeError: `problem`, if it is another one.
        """
        failures = self._context.failures
        is_lost = self._context.world.size > 1 and is_connection_error(problem)
        if isinstance(problem, StorageUnavailable):
            failures.announce_stop(str(problem))
        elif not is_lost and not isinstance(problem, WaitInterrupted):
            raise problem
        is_saved = self._save()
        if isinstance(problem, StorageUnavailable):
            failures.linger()
            raise StorageUnavailable(f"{problem}. {self._rest(is_saved)}")
        if is_lost:
            failures.read_stop()
        if is_lost and not stop.raised():
            raise problem
        if is_lost:  # torchrun asks the ranks that are left to stop
            logger.warning("lost %s", failures.lost_ranks())
        raise StoppedEarly(self._stopped(stop, is_saved))

    def _save(self) -> bool:
        """Save the last whole step on the main rank, without the others; return whether that is done."""
        if not self._context.world.is_main or self._is_sharded or not self._gate.is_whole:
            return False
        try:
            with self._context.failures.saving():
                self._saver.save_alone(*self._whole())
        except CheckpointError as problem:
            logger.warning(str(problem))
            return False
        return True

    def _abandon(self, stop: StopRequest) -> None:
        """Save the last whole step and end the process, whose main thread waits for another rank; runs in a thread."""
        if not self._gate.close():
            return
        try:
            logger.warning("stopping: another rank does not complete the step, which is given up")
            logger.warning("stopped early: %s", self._stopped(stop, self._save()))
        finally:
            os._exit(StoppedEarly.exit_code)

    def _stopped(self, stop: StopRequest, is_saved: bool) -> str:
        stop_file(self._context.folder).unlink(missing_ok=True)
        self._status.write("preempted", reason=str(stop.reason))
        return f"{self._context.folder}: stopped by {stop.reason} within a step. {self._rest(is_saved)}"

    def _rest(self, is_saved: bool) -> str:
        """Return a sentence that says which step is saved."""
        state, saved = self._whole()[0], self._status.saved
        if is_saved:
            return f"Step {state.step} ({state.num_images} images) is saved"
        return f"Step {state.step} is not saved; the newest checkpoint is of step {saved.step if saved else 0}"
