import logging
import sys
import time

import pytest

from hdit_core import progress_bar


def test_notes_go_to_stderr(capsys):
    progress_bar.note("a\rb")
    assert capsys.readouterr() == ("", "hdit: a\\rb\n")


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_bar, "time", clock)
    return clock


def test_progress_in_a_log_is_a_line_after_seconds_then_every_half_minute_and_one_at_the_end(capsys, clock):
    with progress_bar.progress("train", total=1000) as bar:
        for done in range(0, 700, 100):
            bar.update(done, remark=f"loss 0.{done}")
            clock.now += 10
    assert capsys.readouterr().err.splitlines() == [
        "hdit: train: 100 of 1,000 images, 10 images/s, 1:30 left, loss 0.100",
        "hdit: train: 400 of 1,000 images, 10 images/s, 1:00 left, loss 0.400",
        "hdit: train: 600 of 1,000 images, 8.57 images/s, 0:47 left, loss 0.600",
    ]


def test_the_last_line_of_a_log_is_written_once(capsys, clock):
    with progress_bar.progress("score", total=20) as bar:
        bar.update(0)
        clock.now += 10
        bar.update(20)
        clock.now += 1
    assert capsys.readouterr().err == "hdit: score: 20 of 20 images, 2 images/s, 0:00 left\n"


def test_messages_are_shown_while_the_body_runs_unless_the_program_has_a_handler(capsys):
    logger = logging.getLogger("hdit")
    root = logging.getLogger()
    handlers = root.handlers, logger.handlers
    root.handlers, logger.handlers = [], []  # pytest's, and that of a command that ran before in this process
    try:
        with progress_bar.showing_log_messages():
            logger.info("shown")
        logger.info("not shown")
        root.handlers = [logging.NullHandler()]
        with progress_bar.showing_log_messages():
            logger.info("the program's own")
        assert capsys.readouterr().err == "hdit: shown\n" and not logger.handlers
    finally:
        root.handlers, logger.handlers = handlers


def test_the_log_has_a_line_per_minute_for_a_task_without_progress(capsys, monkeypatch):
    monkeypatch.setattr(progress_bar, "SECONDS_OF_SILENCE", 0.05)
    with progress_bar.progress("train", total=1000) as bar:
        bar.update(100)
        time.sleep(0.3)
    *waits, last = capsys.readouterr().err.splitlines()
    assert "hdit: train: 100 of 1,000 images; 0:00 since the last update" in waits
    assert last == "hdit: train: 100 of 1,000 images"


def test_the_speed_counts_only_what_this_process_has_done(clock):
    bar = progress_bar.ProgressBar("train", "images", 1_000_000)
    bar.update(900_000)
    for done in (910_000, 920_000):
        clock.now += 5
        bar.update(done)
    assert bar.text() == "920,000 of 1,000,000 images, 2,000 images/s, 0:40 left"


def test_a_task_of_unknown_length_has_no_remaining_time(clock):
    bar = progress_bar.ProgressBar("prepare", "files", None)
    bar.update(0)
    clock.now += 4
    bar.update(2)
    assert bar.text() == "2 files, 0.5 files/s"


def test_durations_above_an_hour_are_written_in_hours(clock):
    bar = progress_bar.ProgressBar("train", "images", 10_000)
    bar.update(0)
    for done in (5, 10):
        clock.now += 5
        bar.update(done)
    assert bar.text().endswith("2:46:30 left")


def test_the_time_left_is_shown_from_the_second_step_half_a_minute_or_a_tenth_of_the_work_on(clock):
    slow_first_step = {"per_s": 0.04}
    bar = progress_bar.ProgressBar("train", "images", 48_000)
    bar.update(32, **slow_first_step)
    assert bar.text() == "32 of 48,000 images, 0.04 images/s"
    clock.now += 1
    bar.update(64, **slow_first_step)
    assert "left" not in bar.text()
    clock.now += 1
    bar.update(96, per_s=32.0)
    assert bar.text() == "96 of 48,000 images, 32 images/s, 24:57 left"

    for seconds, done, is_shown in ((29, 100, False), (30, 100, True), (1, 4_899, True)):
        bar = progress_bar.ProgressBar("score", "images", 48_000)
        bar.update(0)
        clock.now += seconds
        bar.update(done)
        assert ("left" in bar.text()) is is_shown


def test_progress_on_a_terminal_is_a_bar_on_stderr(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    with progress_bar.progress("train [a]", total=10) as bar:
        bar.update(0)
        bar.update(10, remark="loss [0.1]")
    out, err = capsys.readouterr()
    assert "train [a]" in err
    assert "10 of 10 images" in err
    assert "loss [0.1]" in err
    assert out == ""


def test_log_messages_are_notes_on_stderr_of_the_main_rank_only(capsys, monkeypatch):
    progress_bar.show_log_messages()
    progress_bar.show_log_messages()
    logger = logging.getLogger("hdit")
    logger.info("samples: %s", "a\rb")
    logger.debug("hidden")
    launched = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    logger.warning("rank 1 keeps silent")
    logger.handlers.clear()
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hdit: samples: a\\rb\n")
