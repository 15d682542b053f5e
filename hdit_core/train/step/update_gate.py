"""Whether the weights are those of the last whole step, so that they can be saved although the next one never ends."""

import threading
from typing import Any

from torch.optim import Optimizer


class UpdateGate:
    """Tells whether an update of the weights has begun, and can keep it from beginning.

    A step that waits for another rank waits in its backward pass, before the optimizer changes anything.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._lock = threading.Lock()
        self._is_updating = False
        optimizer.register_step_pre_hook(self._begin_update)

    @property
    def is_whole(self) -> bool:
        """Whether no update has begun since the last whole step."""
        return not self._is_updating

    def step_ended(self) -> None:
        """Note that a step is whole: its weights, its EMA weights and its counters."""
        self._is_updating = False

    def close(self) -> bool:
        """Let no update begin any more, and return True; return False if one has begun.

        A thread that reaches the next update waits there until the process ends.
        """
        self._lock.acquire()
        if self.is_whole:
            return True
        self._lock.release()
        return False

    def _begin_update(self, *_: Any) -> None:
        with self._lock:
            self._is_updating = True
