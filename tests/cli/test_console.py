import json
import logging
import sys
import time
from pathlib import Path

import pytest

from hdit_cli import console
from hdit_cli.options.shared import image_size
from hdit_core.errors import UsageError


def test_json_is_one_document_with_paths_as_text(capsys):
    console.emit({"out": Path("a/b"), "sigma": 0.5, "name": "\x1b[31mé"}, as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"out": "a/b", "sigma": 0.5, "name": "\x1b[31mé"}
    assert "\x1b" not in out
    assert err == ""


def test_json_never_holds_a_number_that_json_does_not_know():
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.emit({"fid": float("nan")}, as_json=True)


def test_a_mapping_is_printed_as_a_key_and_a_value_a_line(capsys):
    console.emit({"images": 12000, "fid": 1.23456789, "exact": True, "note": None}, as_json=False)
    assert capsys.readouterr().out == "images  12,000\nfid     1.23457\nexact   yes\nnote    -\n"


def test_a_list_of_mappings_is_a_table_with_numbers_to_the_right(capsys):
    console.emit([{"level": "a", "macs": 9}, {"level": "bcd", "macs": 12345}], as_json=False)
    assert capsys.readouterr().out == "level    macs\na           9\nbcd    12,345\n"


def test_an_empty_table_prints_nothing(capsys):
    console.emit([], as_json=False)
    assert capsys.readouterr().out == ""


def test_lines_of_ones_own_replace_the_layout_and_names_in_them_are_written_out(capsys):
    console.emit({"a": 1}, as_json=False, lines=["one", "\x1b[2Jtwo\u202e"])
    assert capsys.readouterr().out == "one\n\\x1b[2Jtwo\\u202e\n"


def test_notes_go_to_stderr(capsys):
    console.note("a\rb")
    assert capsys.readouterr() == ("", "hdit: a\\rb\n")


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def test_progress_in_a_log_is_a_line_after_seconds_then_every_half_minute_and_one_at_the_end(capsys, clock):
    with console.progress("train", total=1000) as bar:
        for done in range(0, 700, 100):
            bar.update(done, remark=f"loss 0.{done}")
            clock.now += 10
    assert capsys.readouterr().err.splitlines() == [
        "hdit: train: 100 of 1,000 images, 10 images/s, 1:30 left, loss 0.100",
        "hdit: train: 400 of 1,000 images, 10 images/s, 1:00 left, loss 0.400",
        "hdit: train: 600 of 1,000 images, 8.57 images/s, 0:47 left, loss 0.600",
    ]


def test_a_log_says_once_a_minute_that_a_task_without_progress_still_runs(capsys, monkeypatch):
    monkeypatch.setattr(console, "SECONDS_OF_SILENCE", 0.05)
    with console.progress("train", total=1000) as bar:
        bar.update(100)
        time.sleep(0.3)
    *waits, last = capsys.readouterr().err.splitlines()
    assert "hdit: train: 100 of 1,000 images; 0:00 since the last update" in waits
    assert last == "hdit: train: 100 of 1,000 images"


def test_the_speed_counts_only_what_this_process_has_done(clock):
    bar = console.Progress("train", "images", 1_000_000)
    bar.update(900_000)
    clock.now += 10
    bar.update(920_000)
    assert bar.text() == "920,000 of 1,000,000 images, 2,000 images/s, 0:40 left"


def test_a_task_of_unknown_length_has_no_time_left(clock):
    bar = console.Progress("prepare", "files", None)
    bar.update(0)
    clock.now += 4
    bar.update(2)
    assert bar.text() == "2 files, 0.5 files/s"


def test_hours_are_written_as_hours(clock):
    bar = console.Progress("train", "images", 10_000)
    bar.update(0)
    clock.now += 10
    bar.update(10)
    assert bar.text().endswith("2:46:30 left")


def test_progress_on_a_terminal_is_a_bar_on_stderr(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    with console.progress("train [a]", total=10) as bar:
        bar.update(0)
        bar.update(10, remark="loss [0.1]")
    out, err = capsys.readouterr()
    assert "train [a]" in err
    assert "10 of 10 images" in err
    assert "loss [0.1]" in err
    assert out == ""


@pytest.mark.parametrize(("text", "pixels"), [("512", (512, 512)), ("64x96", (64, 96)), (" 8x1 ", (8, 1))])
def test_a_size_is_height_and_width(text, pixels):
    assert image_size(text) == pixels


@pytest.mark.parametrize("text", ["", "0", "-1", "64x", "x64", "1x2x3", "64 96", "٣", "1e3", "9" * 5000])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="expected pixels as N or HEIGHTxWIDTH"):
        image_size(text)


def test_what_the_library_logs_is_a_note_on_stderr_of_the_main_rank_alone(capsys, monkeypatch):
    console.show_log_messages()
    console.show_log_messages()
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


def test_only_the_main_rank_prints_and_half_a_launcher_silences_nobody(capsys, monkeypatch):
    launched = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    console.note("a note")
    console.emit({"a": 1}, False)
    with console.progress("work", total=2) as bar:
        bar.update(2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.delenv("RANK")
    console.note("a note")
    console.emit({"a": 1}, True)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": 1} and err == "hdit: a note\n"
