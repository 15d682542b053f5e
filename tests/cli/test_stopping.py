"""Commands that can be resumed exit with code 75 when a scheduler stops them, and report what is kept."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from hdit_cli import stopping
from hdit_cli.commands import restore, sample
from hdit_cli.main import main
from hdit_cli.stopping import SIGNALS, stopping_early
from hdit_core.data.prepare import run as preparing
from hdit_core.errors import StoppedEarly
from hdit_core.evaluate import score as scoring
from hdit_core.evaluate.sweep import run as sweeping


def stop(*_, **__):
    """Send this process SIGTERM, and wait for the end that it brings."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
    raise AssertionError("nothing happened")


@contextmanager
def stopped_session(*_):
    stop()
    yield


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_body_and_the_old_handlers_are_restored(number):
    before = [signal.getsignal(number) for number in SIGNALS]
    message = f"{number.name}: kept the work in x; rerun the same command"
    with pytest.raises(StoppedEarly, match=message), stopping_early("the work in x"):
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_second_signal_right_after_the_first_does_not_disturb_the_exit():
    ended = []
    with pytest.raises(StoppedEarly), stopping_early("the work"):
        try:
            stop()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append("orderly")
    assert ended == ["orderly"]


def test_a_child_process_is_terminated_by_the_signal_itself():
    with stopping_early("the work"):
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


STUCK = """
import sys
from torch.distributed import TCPStore
from hdit_cli import stopping
stopping.PATIENCE_S = 0.5
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
with stopping.stopping_early("the images in x"):
    print("waiting", flush=True)
    store.get("a key that no rank sets")
"""


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGTERM, 75, "hdit: stopped early: SIGTERM: kept the images in x; rerun the same command to resume\n"),
        (signal.SIGINT, 130, "hdit: interrupted: kept the images in x; rerun the same command to resume\n"),
    ],
)
def test_a_signal_ends_a_process_whose_main_thread_waits_in_compiled_code(number, code, message):
    command = [sys.executable, "-c", STUCK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "waiting\n"
        time.sleep(0.3)
        child.send_signal(number)
        assert child.wait(timeout=30) == code
        assert child.stderr.read() == message


def test_a_signal_to_a_child_process_does_not_end_its_parent(monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE_S", 0.2)
    with stopping_early("the work"):
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(0.5)


def test_the_end_of_a_child_process_does_not_end_its_parent(monkeypatch):
    """Once torch's data loader has had workers, SIGCHLD has a handler."""
    monkeypatch.setattr(stopping, "PATIENCE_S", 0.1)
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        with stopping_early("the work"):
            subprocess.run(["true"], check=True)
            time.sleep(0.5)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_signals_that_nohup_ignores_stay_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping_early("the work"):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["sweep", "run", "--ref", "x.npz", "--device", "cpu"], "the scores and features in run/sweep"),
        (["sample", "--ckpt", "run", "--out", "faces"], "the images in faces"),
        (["restore", "small", "--ckpt", "run", "--out", "large"], "the images in large"),
        (["prepare-data", "photos", "--out", "data", "--size", "8"], "the finished shards in data"),
        (["eval-fid", "x", "--ref", "y", "--keep-features", "z", "--device", "cpu"], "the features in z"),
    ],
)
def test_resumable_commands_exit_with_75_and_report_what_is_kept(monkeypatch, capsys, arguments, kept):
    for module, name in ((sweeping, "sweep"), (scoring, "score"), (preparing, "prepare_data")):
        monkeypatch.setattr(module, name, stop)
    for module in (sample, restore):
        monkeypatch.setattr(module, "open_session", stopped_session)
    assert main(arguments) == 75
    assert f"hdit: stopped early: SIGTERM: kept {kept}; rerun the same command to resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "report"),
    [
        ("faces", "hdit: interrupted: kept the images in faces; rerun the same command to resume\n"),
        ("-", "hdit: interrupted\n"),
    ],
)
def test_an_interrupt_is_reported_with_what_is_kept(monkeypatch, capsys, out, report):
    @contextmanager
    def interrupted_session(*_):
        signal.raise_signal(signal.SIGINT)
        yield

    monkeypatch.setattr(sample, "open_session", interrupted_session)
    assert main(["sample", "--ckpt", "run", "--out", out]) == 130
    assert capsys.readouterr().err.lstrip("\n") == report


def test_a_task_that_cannot_be_resumed_is_killed_by_a_signal():
    with stopping_early(None):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
