"""A task of an array job in a process of its own, which waits before its third image until it is told to go on."""

from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Event

from hdit_core.data.prepare.array_task import ArrayTask
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_task
from tests.forking import CONTEXT


@dataclass
class WaitingTask:
    """The test's end of it."""

    process: ForkServerProcess
    may_go_on: Event

    def finish(self) -> int:
        """Let it go on, and return its exit code."""
        self.may_go_on.set()
        self.process.join(100)
        return self.process.exitcode


def begin(settings: PrepareSettings, share: ArrayTask) -> WaitingTask:
    """Start a task and return it when it has begun to write."""
    begun, may_go_on = CONTEXT.Event(), CONTEXT.Event()
    process = CONTEXT.Process(target=_prepare, args=(settings, share, begun, may_go_on), daemon=True)
    process.start()
    assert begun.wait(100)
    return WaitingTask(process, may_go_on)


def _prepare(settings: PrepareSettings, share: ArrayTask, begun: Event, may_go_on: Event) -> None:
    def wait(done: int, total: int, bad: int) -> None:
        if done == 3:
            begun.set()
            may_go_on.wait()

    prepare_task(settings, share, wait)
