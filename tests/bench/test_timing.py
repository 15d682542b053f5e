import pytest

from hdit_core.bench.timing import Rounds, Timing, interleaved, stopwatch


class FakeClock:
    """A clock that only advances on request."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s

    def task(self, seconds, log, name):
        """Return a task with these durations, one per run, that records when it ran."""
        lengths = iter(seconds)

        def run():
            log.append(name)
            taken_s = next(lengths)
            self.now_s += taken_s
            return taken_s

        return run


@pytest.fixture
def clock():
    return FakeClock()


def test_median_and_quartiles_equal_those_of_the_runs():
    timing = Timing((4.0, 1.0, 3.0, 2.0, 100.0))
    assert timing.median_s == 3.0
    assert timing.quartiles_s == (2.0, 4.0)
    assert timing.to_json() == {
        "median_s": 3.0,
        "first_quartile_s": 2.0,
        "third_quartile_s": 4.0,
        "least_s": 1.0,
        "runs": 5,
    }


def test_a_single_run_is_its_own_median_and_quartiles():
    assert (Timing((2.5,)).median_s, Timing((2.5,)).quartiles_s) == (2.5, (2.5, 2.5))


def test_tasks_take_turns_in_an_order_that_is_reversed_each_round(clock):
    log = []
    tasks = {name: clock.task([1.0] * 9, log, name) for name in "abc"}
    interleaved(tasks, Rounds(warm_up=1, least=3, most=3), clock=clock)
    assert "".join(log) == "abc" + "abc" + "cba" + "abc"


def test_warm_up_runs_are_not_counted(clock):
    task = clock.task([50.0, 60.0, 1.0, 2.0, 3.0], [], "a")
    timing = interleaved({"a": task}, Rounds(warm_up=2, least=3, most=3), clock=clock)["a"]
    assert timing.runs_s == (1.0, 2.0, 3.0)


def test_a_slow_minute_affects_all_tasks_equally(clock):
    slow = [1.0, 1.0, 10.0, 10.0, 10.0, 1.0, 1.0]
    tasks = {"a": clock.task(slow, [], "a"), "b": clock.task([2 * s for s in slow], [], "b")}
    found = interleaved(tasks, Rounds(warm_up=0, least=7, most=7), clock=clock)
    assert found["b"].median_s == 2 * found["a"].median_s


def test_no_round_starts_after_the_limit_but_the_minimum_number_always_runs(clock):
    limits = Rounds(warm_up=0, least=2, most=50, limit_s=10.0)
    quick = interleaved({"a": clock.task([3.0] * 50, [], "a")}, limits, clock=clock)["a"]
    slow = interleaved({"a": clock.task([30.0] * 50, [], "a")}, limits, clock=clock)["a"]
    assert (len(quick.runs_s), len(slow.runs_s)) == (4, 2)


def test_each_finished_round_is_reported(clock):
    told = []
    interleaved({"a": clock.task([1.0] * 4, [], "a")}, Rounds(1, 3, 3), clock=clock, on_round=told.append)
    assert told == [1, 2, 3]


def test_a_stopwatch_waits_for_the_device_before_and_after_and_counts_the_second_wait(clock):
    waits_s = iter([7.0, 0.5])

    def finish():
        clock.now_s += next(waits_s)

    def act():
        clock.now_s += 2.0

    assert stopwatch(act, finish, clock)() == 2.5
