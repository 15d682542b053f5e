"""Computations are watched while they run, and stopped."""

import threading
import time

import pytest

from hdit_core.play.background import Sessions, Stopped, newest_results


def endless(ended):
    """Return a computation that reports until it is stopped, and then sets the event."""

    def work(report):
        try:
            while True:
                report(1)
                time.sleep(0.001)
        finally:
            ended.set()

    return work


def test_the_last_result_always_arrives_and_outdated_ones_are_skipped():
    go, gone = threading.Event(), threading.Event()

    def work(report):
        report(0)
        go.wait(10)
        for number in range(1, 100):
            report(number)
        gone.set()

    results = newest_results(work, threading.Event())
    assert next(results) == 0
    go.set()
    gone.wait(10)
    assert list(results) == [99]


def test_a_stopped_computation_reports_it_and_ends():
    stop, ended = threading.Event(), threading.Event()
    results = newest_results(endless(ended), stop)
    assert next(results) == 1
    stop.set()
    with pytest.raises(Stopped):
        list(results)
    assert ended.is_set()


def test_a_computation_that_nobody_watches_is_stopped():
    ended = threading.Event()
    results = newest_results(endless(ended), threading.Event())
    next(results)
    results.close()
    assert ended.is_set()


def test_an_error_comes_after_the_results_that_were_reported():
    def work(report):
        report(1)
        raise ValueError("broken")

    results = newest_results(work, threading.Event())
    assert next(results) == 1
    with pytest.raises(ValueError, match="broken"):
        next(results)


def test_a_stopped_computation_is_waited_for():
    sessions, order = Sessions(), []

    def compute():
        with sessions.running("a"):
            began.set()
            stop.wait(60)
            order.append("its last result")

    stop, began = sessions.begin("a"), threading.Event()
    sessions.wait("a")  # nothing runs
    thread = threading.Thread(target=compute)
    thread.start()
    began.wait(60)
    sessions.stop("a")
    sessions.wait("a")
    order.append("stopped")
    thread.join()
    assert order == ["its last result", "stopped"]


def test_users_stop_only_their_own_computation():
    sessions = Sessions()
    mine, yours = sessions.begin("a"), sessions.begin("b")
    sessions.stop("a")
    sessions.stop("a")
    assert mine.is_set() and not yours.is_set()
