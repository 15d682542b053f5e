"""Models at https, s3 and gs addresses: fetched once, and again when they change; against servers on this machine."""

import os
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch

from hdit_core import remote_models
from hdit_core.checkpoint.denoiser import load_denoiser
from hdit_core.checkpoint.layout import local_model
from hdit_core.errors import CheckpointError
from tests.gs_server import gs_files


def assert_same_weights(address, run):
    expected, found = load_denoiser(run).state_dict(), load_denoiser(address).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, exported, monkeypatch):
    """The address of a server of the export."""
    pytest.importorskip("aiohttp", reason="needs aiohttp")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(exported)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["weights.safetensors", ""])
def test_a_file_is_fetched_by_http(exported, server, name):
    assert_same_weights(f"{server}/{name}", exported)


def test_a_file_that_was_replaced_on_its_server_is_fetched_again(exported, server, monkeypatch):
    served, address = exported / "weights.safetensors", f"{server}/weights.safetensors"
    for modified_s in (1_000_000_000, 1_100_000_000):
        served.write_bytes(served.read_bytes()[:-1] + bytes([modified_s % 256]))  # as large as before
        os.utime(served, (modified_s, modified_s))
        remote_models._fetched.cache_clear()
        assert local_model(address).read_bytes() == served.read_bytes()
    monkeypatch.setattr(remote_models, "VERSION_KEYS", ())
    for last in (b"-", b"+"):
        served.write_bytes(served.read_bytes()[:-1] + last)
        remote_models._fetched.cache_clear()
        assert local_model(address).read_bytes()[-1:] == last


def test_a_transfer_ends_when_it_is_longer_than_announced(tmp_path):
    store = pytest.importorskip("fsspec", reason="needs fsspec").filesystem("memory")
    store.pipe("/long/weights.safetensors", bytes(1_000))
    announced = remote_models.RemoteFile("weights.safetensors", "/long/weights.safetensors", 10, "1")
    with pytest.raises(CheckpointError, match=r"weights.safetensors is larger than the 10 bytes announced"):
        remote_models._fetch(store, [announced], tmp_path / "model", "memory://long")
    assert list(tmp_path.iterdir()) == []


def upload(run, files):
    """Put the checkpoint of a run and an older one into a bucket, and return the folder of the former."""
    (checkpoint,) = (run / "checkpoints").iterdir()
    for step in ("step-000000003", checkpoint.name):
        for path in checkpoint.iterdir():
            content = path.read_bytes() if step == checkpoint.name else b"an older one"
            files.pipe(f"bucket/run/checkpoints/{step}/{path.name}", content)
    return checkpoint


def test_the_newest_checkpoint_of_a_run_on_s3_is_fetched(tmp_path, run, monkeypatch):
    pytest.importorskip("s3fs", reason="needs s3fs, of the extra dev")
    moto_server = pytest.importorskip("moto.server", reason="needs moto with its server, of the extra dev")
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    environment = {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "not-a-key",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    import s3fs

    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.mkdir("bucket")
    try:
        upload(run, files)
        assert_same_weights("s3://bucket/run", run)
    finally:
        files.rm("bucket", recursive=True)  # every server of this process has the same buckets
        server.stop()


def test_the_newest_checkpoint_of_a_run_on_google_cloud_storage_is_fetched(tmp_path, run, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with gs_files(monkeypatch) as files:
        checkpoint = upload(run, files)
        assert_same_weights("gs://bucket/run", run)
        models = (tmp_path / "cache" / "hdit" / "models").rglob("*.safetensors")
        assert {path.name for path in models} == {path.name for path in checkpoint.glob("*.safetensors")}
