"""The output as a user sees it: a child process writes to a pseudo-terminal, and an emulator shows its screen."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

pyte = pytest.importorskip("pyte")

ROWS = 40

TASK = """
import logging, time
from hdit_cli import console
console.show_log_messages()
with console.progress("train", total=400) as bar:
    for done in range(0, 401, 40):
        bar.update(done, remark="step 12, loss 0.0123")
        console.note(f"message {done}: " + "x" * 30)
        logging.getLogger("hdit").warning("warning %d", done)
        time.sleep(0.02)
"""

INTERRUPTED = """
import time
from hdit_cli import console
with console.progress("train", total=400) as bar:
    bar.update(40, remark="step 12, loss 0.0123")
    time.sleep(0.3)
    console.note("press")
    time.sleep(0.3)
    bar.update(80, remark="step 13, loss 0.0122")
    console.note("saved")
"""

TABLE = """
from hdit_cli import console
rows = [{"network": name, **{f"column {i}": 1000 * i for i in range(12)}} for name in ("one", "another")]
console.emit(rows, as_json=False)
"""


def screen_of(code: str, columns: int) -> list[str]:
    """Return the lines that a terminal shows after a Python program has ended in it."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=terminal, stderr=terminal, env=environment | {"TERM": "xterm"}
    )
    os.close(terminal)
    screen = pyte.Screen(columns, ROWS)
    stream = pyte.ByteStream(screen)
    while True:
        try:
            content = os.read(controller, 65536)
        except OSError:  # Linux reports the end of a pseudo-terminal as an error
            break
        if not content:
            break
        stream.feed(content)
        if b"press" in content:
            os.write(controller, b"\x03")  # Ctrl-C, which the terminal echoes as ^C
    os.close(controller)
    assert child.wait() == 0
    return [line.rstrip() for line in screen.display]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_messages_never_share_a_line_with_the_bar(columns):
    lines = [line for line in screen_of(TASK, columns) if line]
    messages = [line for line in lines if "message" in line or "warning" in line]
    expected = [
        text for done in range(0, 401, 40) for text in (f"hdit: message {done}: {'x' * 30}", f"hdit: warning {done}")
    ]
    assert messages == expected
    assert len(lines) == len(expected) + 1  # and one bar, below them
    assert lines[-1].startswith("train ")
    assert "loss 0.0123" in lines[-1]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_an_echoed_interrupt_leaves_no_second_bar(columns):
    lines = [line for line in screen_of(INTERRUPTED, columns) if line]
    assert lines[:2] == ["hdit: press", "hdit: saved"]
    assert len(lines) == 3 and lines[2].startswith("train ") and lines[2].endswith("loss 0.0122")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_wide_table_is_split_into_blocks_that_fit_the_terminal(columns):
    lines = screen_of(TABLE, columns)
    heads = [line for line in lines if line.startswith("network")]
    assert len(heads) > 1
    assert " ".join(heads).count("column") == 12
    assert max(map(len, lines)) <= columns
    assert sum(line.startswith("another") for line in lines) == len(heads)
