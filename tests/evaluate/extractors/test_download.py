"""Weights are downloaded once, verified, and never incomplete."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hdit_core.errors import CheckpointError, HditError, UsageError
from hdit_core.evaluate.extractors.download import WeightsFile, find_weights
from hdit_core.evaluate.extractors.inception import INCEPTION
from hdit_core.files import cache_folder

CONTENT = bytes(range(256)) * 20


@pytest.fixture
def server():
    """Return the address of a server on this machine, and the list of its requests."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path != "/weights.pt":
                self.send_error(404)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()


def weights_at(address, name="weights.pt", content=CONTENT):
    return WeightsFile(name, f"{address}/{name}", hashlib.sha256(content).hexdigest(), len(content))


def files_in(folder):
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def test_a_file_is_downloaded_once_and_then_found_in_the_cache(server, tmp_path, caplog):
    caplog.set_level("INFO", "hdit")
    address, asked = server
    for _ in range(2):
        path, sha256 = find_weights(weights_at(address), None, tmp_path / "cache")
    assert path.read_bytes() == CONTENT and sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert asked == ["/weights.pt"] and len(caplog.messages) == 1
    assert files_in(tmp_path / "cache") == ["weights.pt"]


def test_a_file_with_another_checksum_is_not_kept(server, tmp_path):
    wanted = weights_at(server[0], content=CONTENT[:-1] + b"x")
    with pytest.raises(HditError, match=r"the download has sha256 \w{64}, expected \w{64}; not kept"):
        find_weights(wanted, None, tmp_path)
    assert files_in(tmp_path) == []


def test_a_file_that_is_too_long_is_not_read_to_its_end(server, tmp_path):
    wanted = weights_at(server[0], content=CONTENT[:100])
    with pytest.raises(HditError, match="longer than the expected 100 bytes; not kept"):
        find_weights(wanted, None, tmp_path)
    assert files_in(tmp_path) == []


def test_without_the_file_on_the_server_the_message_has_the_fix(server, tmp_path):
    with pytest.raises(HditError, match=r"404.*put it there, pass it by --extractor-weights PATH, or use") as caught:
        find_weights(weights_at(server[0], "absent.pt"), None, tmp_path)
    assert caught.value.exit_code == 1
    assert files_in(tmp_path) == []


def test_without_a_network_the_message_names_the_path_of_the_file(tmp_path):
    wanted = weights_at("http://127.0.0.1:9")
    with pytest.raises(HditError, match=rf"cannot be downloaded to {tmp_path}/weights\.pt \(.*refused"):
        find_weights(wanted, None, tmp_path)


def test_a_damaged_file_in_the_cache_is_never_used(tmp_path):
    (tmp_path / "weights.pt").write_bytes(CONTENT[:-1])
    with pytest.raises(CheckpointError, match=r"weights\.pt: damaged: .* delete it to download it again"):
        find_weights(weights_at("http://127.0.0.1:9"), None, tmp_path)


def test_given_weights_are_used_without_a_download(tmp_path):
    given = tmp_path / "mine.pt"
    given.write_bytes(b"mine")
    path, sha256 = find_weights(weights_at("http://127.0.0.1:9"), given, tmp_path / "cache")
    assert (path, sha256) == (given, hashlib.sha256(b"mine").hexdigest())


def test_given_weights_that_are_missing_are_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"mine\.pt: no such weights file"):
        find_weights(INCEPTION, tmp_path / "mine.pt", tmp_path)


def test_nothing_is_downloaded_without_encryption(tmp_path):
    with pytest.raises(ValueError, match="over https only"):
        find_weights(weights_at("http://example.invalid"), None, tmp_path)


def test_the_cache_follows_xdg_cache_home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hdit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "hdit"
