"""The server answers only the requests of its page, and gradio accesses neither the network nor files."""

import io
import json
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdit_core.errors import UsageError
from hdit_core.play.page import server


def ask(address, path="/", headers=None, data=None):
    """Return status, headers and text of an answer."""
    request = urllib.request.Request(address + path, data=data, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers, answer.read().decode(errors="replace")


def test_the_page_is_served_with_a_policy_that_keeps_browsers_from_other_servers(address):
    status, headers, text = ask(address)
    assert (status == 200 and "<title>" in text) or "gradio" in text
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http:" not in policy and "https:" not in policy
    assert ask(address, "/config")[0] == 200
    assert '"analytics_enabled":false' in ask(address, "/config")[2].replace(" ", "")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=hdit_core/errors.py",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/assets/../../../../../../../etc/passwd",
        "/static/..%2f..%2f..%2f..%2fetc/passwd",
        "/gradio_api/proxy=https://example.org/",
        "/gradio_api/run/predict",
        "/gradio_api/call/sample",
        "/gradio_api/openapi.json",
        "/gradio_api/vibe-code/",
        "/monitoring",
        "/docs",
        "/openapi.json",
    ],
)
def test_files_and_other_routes_of_gradio_are_not_served(address, path):
    status, headers, text = ask(address, path)
    assert status in (403, 404) and "root:" not in text
    assert "content-security-policy" in headers or path.startswith("/assets")


def test_other_sites_cannot_use_the_page_through_a_users_browser(address):
    port = address.rsplit(":", 1)[1]
    assert ask(address, headers={"Host": f"evil.example:{port}"})[0] == 403
    assert ask(address, headers={"Host": f"localhost:{port}"})[0] == 200
    join = {"Origin": "http://evil.example", "Content-Type": "application/json"}
    assert ask(address, "/gradio_api/queue/join", join, b"{}")[0] == 403


def upload_call(address, path):
    """Return the answer to a call of the function of the upload button with a path, and its result."""
    config = json.loads(ask(address, "/config")[2])
    (button,) = [part["id"] for part in config["components"] if part["type"] == "uploadbutton"]
    function = [call["id"] for call in config["dependencies"] if button in call["inputs"]][-1]
    file = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    call = json.dumps({"data": [file], "fn_index": function, "session_hash": "me"}).encode()
    status, _, text = ask(address, "/gradio_api/queue/join?", {"Content-Type": "application/json"}, call)
    if status != 200:
        return status, text
    with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash=me", timeout=30) as events:
        return status, next(line.decode() for line in events if b"process_completed" in line)


def test_an_upload_is_read(address):
    content = io.BytesIO()
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(content, "PNG")
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    form = head + content.getvalue() + b"\r\n--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    (path,) = json.loads(ask(address, "/gradio_api/upload", kind, form)[2])
    status, text = upload_call(address, path)
    assert status == 200 and '"success":true' in text and "<canvas" in text


@pytest.mark.parametrize("path", ["{run}/grids/000000064.png", "/etc/passwd", "http://127.0.0.1:1/a.png", "../a.png"])
def test_files_of_the_machine_and_other_addresses_cannot_be_named_as_uploads(address, served_run, path):
    assert upload_call(address, path.format(run=served_run)) == (403, "a call may name uploaded files only\n")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b'{"path": 3}', b'{"path": "a\\u0000"}', b'[{"path": [1]}]']
)
def test_a_malformed_call_is_refused(tmp_path, body):
    assert not server.names_only_files_in(tmp_path, body)
    assert server.names_only_files_in(tmp_path, json.dumps({"data": [{"path": f"{tmp_path}/a.png"}, 3]}).encode())


def test_the_page_exposes_no_api_endpoints(address):
    info = json.loads(ask(address, "/gradio_api/info")[2])
    assert info["named_endpoints"] == {} and info["unnamed_endpoints"] == {}


def test_gradios_environment_variables_are_set_and_restored(monkeypatch):
    monkeypatch.setenv("GRADIO_SHARE", "True")
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/")
    with server.private_gradio():
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
        assert "GRADIO_SHARE" not in os.environ and "GRADIO_ALLOWED_PATHS" not in os.environ
        folder = os.environ["GRADIO_TEMP_DIR"]
    assert os.environ["GRADIO_SHARE"] == "True" and os.environ.get("GRADIO_TEMP_DIR") != folder
    assert not Path(folder).exists()


def test_a_port_in_use_is_one_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"--host 127.0.0.1 --port {port}: cannot be served .*in use"):
            server.open_socket("127.0.0.1", port)
    with pytest.raises(UsageError, match=r"--host no\.such\.host\.invalid --port 0: cannot be served"):
        server.open_socket("no.such.host.invalid", 0)


def test_the_printed_address_opens_in_a_browser():
    with server.open_socket("0.0.0.0", 0) as listening:
        assert server.address_of(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_without_gradio_the_message_names_the_extra_to_install(monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'hdit-toolkit\[play\]'"), server.private_gradio():
        pass


def test_a_page_that_lost_its_server_can_look_for_it(address):
    status, _, text = ask(address, "/gradio_api/app_id")  # what gradio asks for until it reconnects
    assert status == 200 and "app_id" in text


def test_a_page_that_is_still_open_at_the_end_is_no_traceback(models, capfd):
    with server.serving(models) as address:
        still_open = urllib.request.urlopen(f"{address}/gradio_api/heartbeat/me", timeout=30)
    still_open.close()
    assert "Traceback" not in capfd.readouterr().err
