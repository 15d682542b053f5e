"""A store that speaks the protocol of Google Cloud Storage, on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.ports import take_port


@contextmanager
def gs_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a store with a bucket named "bucket", which `gs://` then means, and yield its file system."""
    gcsfs = pytest.importorskip("gcsfs", reason="needs gcsfs, of the extra dev")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcp-storage-emulator, of the extra dev")
    port = take_port()
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    # otherwise gcsfs asks another service, over gRPC, what kind of bucket it is
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    yield gcsfs.GCSFileSystem(skip_instance_cache=True)
    server.stop()
