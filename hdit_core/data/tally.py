"""How far a preparation has come, and whether too much of its input is bad."""

import json
from collections.abc import Callable

from hdit_core.errors import DataError, UsageError

Progress = Callable[[int, int, int], None]
"""Called with inputs done, inputs in all, and how many of those cannot be used."""


def bad_limit(text: str | None, num_inputs: int) -> int:
    """Return how many inputs may be bad, from `--max-bad`: a number, a share such as "0.01%", or None for any.

    Raises:
        UsageError: it is neither.
    """
    try:
        if text is None:
            return num_inputs
        limit = float(text[:-1]) / 100 * num_inputs if text.endswith("%") else int(text)
        if limit >= 0:
            return int(limit)
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"--max-bad {text}: expected a number of images or a share of them, for example 10 or 0.01%")


class Tally:
    """Counts inputs and those that cannot be used, reports them, and ends the run when there are too many."""

    def __init__(self, total: int, limit: int, on_progress: Progress | None) -> None:
        self.total, self.limit, self.on_progress = total, limit, on_progress
        self.done = self.bad = 0

    def add(self, inputs: int, bad: int = 0, last_reject: str = "") -> None:
        """Count what is done.

        Args:
            inputs: more of them.
            bad: how many of these cannot be used.
            last_reject: the line of rejects.jsonl of the last of those.

        Raises:
            DataError: more are bad than allowed.
        """
        self.done += inputs
        self.bad += bad
        if self.bad > self.limit:
            last = json.loads(last_reject)
            raise DataError(
                f"more than {self.limit:,} of {self.total:,} inputs cannot be used, as --max-bad allows; the last: "
                f"{last['name']}: {last['reason']}"
            )
        if self.on_progress:
            self.on_progress(self.done, self.total, self.bad)
