"""Times of several tasks taken in turn, so that what slows the machine down slows all of them; medians and quartiles.

A machine that others use too drifts by tens of percent within a minute: two tasks that are timed one after the other
cannot be compared, two that take turns can.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Name = TypeVar("Name")
Clock = Callable[[], float]
Task = Callable[[], float]
"""Does its work once and returns the seconds that it took."""


@dataclass(frozen=True)
class Timing:
    """The seconds that one task took, each time that it ran."""

    runs_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """The middle one."""
        return statistics.median(self.runs_s)

    @property
    def quartiles_s(self) -> tuple[float, float]:
        """What a quarter of the runs stayed below, and what three quarters did; both the median for a single run."""
        if len(self.runs_s) == 1:
            return self.runs_s[0], self.runs_s[0]
        first, _, third = statistics.quantiles(self.runs_s, n=4, method="inclusive")
        return first, third

    def to_json(self) -> dict[str, float | int]:
        """Return the figures, without the single runs."""
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
    """How often tasks take their turn.

    Attributes:
        warm_up: untimed rounds at first: caches, threads, what compiles itself on first use.
        least: rounds that are timed however long they take.
        most: rounds after which it is enough.
        limit_s: no further round begins once the timed ones have taken as long.
    """

    warm_up: int = 1
    least: int = 3
    most: int = 25
    limit_s: float = 20.0


def stopwatch(act: Callable[[], object], finish: Callable[[], None] | None = None, clock: Clock | None = None) -> Task:
    """Return a task that times `act`.

    Args:
        act: what is timed.
        finish: waits until the device has done all that was asked of it (a GPU works on after `act` returns).
        clock: seconds since any moment.
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
    """Run every task once a round, in an order that is turned round each time, and return the times of each.

    Args:
        tasks: by name.
        rounds: how many.
        clock: tells when the limit is reached.
        on_round: told how many timed rounds are done.
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
