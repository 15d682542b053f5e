"""`hdit play` from the shell."""

import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from hdit_cli.main import main
from hdit_core.api import train
from hdit_core.play.page import server


@pytest.fixture
def run(trained, tmp_path):
    """Return a run of two steps."""
    return train(trained({"train.num_images": 16}), tmp_path / "run", device="cpu", progress=False).folder


@pytest.mark.slow
def test_the_page_is_served_until_it_is_interrupted(run):
    command = [sys.executable, "-m", "hdit_cli", "play", "--ckpt", str(run), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:") and line.endswith(" (Ctrl-C ends)\n"), process.communicate()
    with urllib.request.urlopen(line.split()[0], timeout=60) as answer:
        assert answer.status == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert err.splitlines()[-1] == "hdit: ended" and "Traceback" not in err and "Error" not in err


def test_a_missing_package_and_a_port_in_use_are_one_line(run, monkeypatch, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["play", "--ckpt", str(run), "--port", str(port), "--device", "cpu"]) == 2
    assert f"hdit: error: --host 127.0.0.1 --port {port}: cannot be served" in capsys.readouterr().err
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    assert main(["play", "--ckpt", "nowhere"]) == 2
    assert capsys.readouterr().err == (
        "hdit: error: hdit play needs gradio; install it with pip install 'hdit-toolkit[play]'\n"
    )


def test_the_options_are_those_of_the_server_and_other_machines_are_let_in_with_a_note(run, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(
        server, "serve", lambda models, host, port, on_ready: calls.append((models.names(), host, port))
    )
    other = ["--compare", str(run / "checkpoints" / "step-000000002")]
    assert main(["play", "--ckpt", str(run), *other, "--host", "0.0.0.0", "--port", "8000", "--device", "cpu"]) == 0
    assert calls == [(["run", "step-000000002"], "0.0.0.0", 8000)]
    messages = capsys.readouterr().err
    assert messages.startswith(f"hdit: loading {run}\n")
    assert "hdit: --host 0.0.0.0: everybody who can reach this address can use the page" in messages
