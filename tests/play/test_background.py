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
    sessions, order, began = Sessions(), [], threading.Event()

    def compute():
        with sessions.running("a"):
            began.set()
            sessions.stop_event("a").wait(60)
            order.append("its last result")

    sessions.wait("a")  # nothing runs
    thread = threading.Thread(target=compute)
    thread.start()
    began.wait(60)
    sessions.stop("a")
    sessions.wait("a")
    order.append("stopped")
    thread.join()
    assert order == ["its last result", "stopped"]


def test_a_computation_that_is_stopped_before_it_opens_its_model_stops():
    """Also one that was stopped between the two models of a comparison."""
    sessions = Sessions()
    with sessions.running("a"):
        sessions.stop("a")
        assert sessions.stop_event("a").is_set() and sessions.stop_event("a").is_set()
    with sessions.running("a"):
        assert not sessions.stop_event("a").is_set()


def test_users_stop_only_their_own_computation():
    sessions = Sessions()
    with sessions.running("a"), sessions.running("b"):
        sessions.stop("a")
        sessions.stop("a")
        assert sessions.stop_event("a").is_set() and not sessions.stop_event("b").is_set()


def test_a_button_stops_only_the_computation_of_its_tab():
    sessions = Sessions()
    with sessions.running("a", "the button of the tab Sample"):
        sessions.stop("a", "the button of the tab Edit")
        sessions.wait("a", "the button of the tab Edit")
        assert not sessions.stop_event("a").is_set()
        sessions.stop("a", "the button of the tab Sample")
        assert sessions.stop_event("a").is_set()


def test_nothing_is_kept_of_a_session_without_a_computation():
    sessions = Sessions()
    with sessions.running("a"):
        pass
    assert sessions._running == {}


def test_a_computation_that_waits_is_not_begun_after_its_button_stopped_it():
    sessions = Sessions()
    for stopped_by, is_wanted in [(None, False), ("sample", False), ("edit", True)]:
        sessions.ask("a", "sample")
        sessions.ask("b", "sample")
        sessions.stop("a", stopped_by)
        assert sessions.begin("a", "sample") is is_wanted
        assert sessions.begin("b", "sample") and not sessions.begin("b", "sample")
