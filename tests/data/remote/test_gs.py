"""Data sets on Google Cloud Storage: read through the cache, verified, as those on S3 are."""

import numpy as np
import pytest

from hdit_core.data.format import retry_reads
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.remote.cache import RemoteDataset
from hdit_core.errors import DataError
from tests.gs_server import gs_files

ADDRESS = "gs://bucket/faces"


@pytest.fixture
def store(monkeypatch, data_set):
    """Return a store with the data set."""
    monkeypatch.setattr(retry_reads, "PAUSES_S", (0.01,) * 3)
    with gs_files(monkeypatch) as files:
        for path in sorted(data_set.iterdir()):
            files.pipe(f"bucket/faces/{path.name}", path.read_bytes())
        yield files


def opened(tmp_path):
    return ImageReader(RemoteDataset(ADDRESS, tmp_path / "cache", 10**9), cache_bytes=0)


def test_images_are_those_of_the_local_set(store, data_set, tmp_path):
    reader, local = opened(tmp_path), ImageReader(data_set)
    assert len(reader) == len(local) == 23
    assert all(np.array_equal(reader.read(index)[0], local.read(index)[0]) for index in range(23))


def test_an_object_that_changed_is_refused_by_its_name(store, data_set, tmp_path):
    shard = sorted(data_set.glob("*.tar"))[0]
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    store.pipe(f"bucket/faces/{shard.name}", bytes(content))
    reader = opened(tmp_path)
    with pytest.raises(DataError, match=shard.name):
        for index in range(23):
            reader.read(index)


def test_a_missing_object_is_one_line_with_its_address(store, tmp_path):
    store.rm("bucket/faces/manifest.json")
    with pytest.raises(DataError, match="gs://bucket/faces"):
        opened(tmp_path)
