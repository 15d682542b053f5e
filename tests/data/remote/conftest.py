"""A real S3 server on this machine, and a network to it that can fail."""

import functools
import logging
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hdit_core.data.format import retry_reads
from tests.data.remote.faulty_proxy import FaultyProxy


@dataclass
class Store:
    """A bucket with a prepared data set."""

    address: str
    files: Any  # of fsspec, without the proxy
    network: FaultyProxy

    def put(self, folder: Path) -> None:
        """Put the files of a data set there, in place of those of the same names."""
        for path in sorted(folder.iterdir()):
            self.files.pipe(f"bucket/faces/{path.name}", path.read_bytes())


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, int]]:
    """Start an S3 server and return its address."""
    pytest.importorskip("s3fs", reason="needs s3fs, of the extra dev")
    server_of = pytest.importorskip("moto.server", reason="needs moto with its server, of the extra dev")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_of.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture(scope="module")
def quick_clients() -> Iterator[None]:
    """Let clients of S3 share its description, and load no certificates for connections without TLS: half a second."""
    loaders = pytest.importorskip("botocore.loaders", reason="needs s3fs, of the extra dev")
    load_once = functools.cache(functools.partial(loaders.JSONFileLoader.load_file, loaders.JSONFileLoader()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaders.JSONFileLoader, "load_file", lambda self, path: load_once(path))
        patch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)
        yield


@pytest.fixture(scope="session")
def s3_files(s3_server) -> Any:
    """Return the file system of the server, without the proxy."""
    import s3fs

    return s3fs.S3FileSystem(
        endpoint_url="http://{}:{}".format(*s3_server),
        key="not-a-key",
        secret="not-a-secret",
        config_kwargs={"region_name": "us-east-1"},
        skip_instance_cache=True,
    )


@pytest.fixture
def s3(s3_server, s3_files, quick_clients, data_set, monkeypatch) -> Iterator[Store]:
    """Put the data set on the server; reads pass through a proxy that can fail."""
    import s3fs

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "not-a-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # hdit's own attempts are tested, not botocore's
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(retry_reads, "PAUSES_S", (0.01,) * 3)
    network = FaultyProxy(*s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", network.address)
    s3_files.mkdir("bucket")
    store = Store("s3://bucket/faces", s3_files, network)
    store.put(data_set)
    yield store
    s3_files.rm("bucket", recursive=True)
    network.close()
    s3fs.S3FileSystem.clear_instance_cache()
