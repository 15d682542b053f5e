"""Interleaved timing of several tasks, with medians and quartiles.

The speed of a shared machine drifts by tens of percent within a minute, so that tasks timed one after the other cannot
be compared. Interleaved, they all see the same drift.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Name = TypeVar("Name")
Clock = Callable[[], float]
Task = Callable[[], float]
"""Runs once and returns its duration in seconds."""


@dataclass(frozen=True)
class Timing:
    """The durations of all runs of a task, in seconds."""

    runs_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """The median duration."""
        return statistics.median(self.runs_s)

    @property
    def quartiles_s(self) -> tuple[float, float]:
        """The lower and upper quartile; both the median for a single run."""
        if len(self.runs_s) == 1:
            return self.runs_s[0], self.runs_s[0]
        first, _, third = statistics.quantiles(self.runs_s, n=4, method="inclusive")
        return first, third

    def to_json(self) -> dict[str, float | int]:
        """Return the statistics, without the single runs."""
        first, third = self.quartiles_s
        return {
            "median_s": self.median_s,
            "first_quartile_s": first,
            "third_quartile_s": third,
            "least_s": min(self.runs_s),
            "runs": len(self.runs_s),
        }


@dataclass(frozen=True)
class Rounds:
    """The number of rounds; each runs every task once.

    Attributes:
        warm_up: untimed rounds at the start, for caches, threads and compilation on first use.
        least: minimum number of timed rounds, however long they take.
        most: maximum number of timed rounds.
        limit_s: no further round starts after this much time in timed rounds.
    """

    warm_up: int = 1
    least: int = 3
    most: int = 25
    limit_s: float = 20.0


def stopwatch(act: Callable[[], object], finish: Callable[[], None] | None = None, clock: Clock | None = None) -> Task:
    """Return a task that times `act`.

    Args:
        finish: waits until the device has completed all operations (a GPU runs asynchronously).
        clock: returns seconds since an arbitrary moment.
    """
    now = clock or time.perf_counter

    def run() -> float:
        if finish is not None:
            finish()
        began_at = now()
        act()
        if finish is not None:
            finish()
        return now() - began_at

    return run


def interleaved(
    tasks: Mapping[Name, Task],
    rounds: Rounds | None = None,
    *,
    clock: Clock | None = None,
    on_round: Callable[[int], None] = lambda done: None,
) -> dict[Name, Timing]:
    """Run every task once per round, in alternating order, and return the timings of each.

    Args:
        tasks: by name.
        rounds: their number.
        clock: measures `limit_s`.
        on_round: called with the number of timed rounds done.
    """
    rounds, now = rounds or Rounds(), clock or time.perf_counter
    names: Sequence[Name] = list(tasks)
    for _ in range(rounds.warm_up):
        for name in names:
            tasks[name]()

    runs_s: dict[Name, list[float]] = {name: [] for name in names}
    began_at = now()
    for done in range(rounds.most):
        if done >= rounds.least and now() - began_at >= rounds.limit_s:
            break
        for name in names if done % 2 == 0 else reversed(names):
            runs_s[name].append(tasks[name]())
        on_round(done + 1)
    return {name: Timing(tuple(runs)) for name, runs in runs_s.items()}
