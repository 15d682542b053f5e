"""Data sets on a remote store: files are fetched on demand, once, checked, and within the limit."""

import builtins
import os
import threading
import time

import fsspec
import numpy as np
import pytest

from hdit_core.data.format import retry_reads
from hdit_core.data.loader.batch import load_batches
from hdit_core.data.loader.build import open_reader
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.remote import store as remote_store
from hdit_core.data.remote.cache import RemoteDataset
from hdit_core.errors import DataError, UsageError
from hdit_core.recipe.data import DataRecipe

ADDRESS = "memory://bucket/faces"


@pytest.fixture
def store(data_set, monkeypatch):
    """Put the data set on a store, and return that."""
    monkeypatch.setattr(retry_reads, "PAUSES_S", (0.01,) * 3)
    files = fsspec.filesystem("memory")
    files.put(str(data_set), "/bucket/faces", recursive=True)
    yield files
    files.rm("/bucket", recursive=True)


@pytest.fixture
def fetched(store, monkeypatch):
    """Return a list of the names that are fetched."""
    names, chunks = [], remote_store.read_chunks

    def note(address, most_bytes):
        names.append(address.rpartition("/")[2])
        return chunks(address, most_bytes)

    monkeypatch.setattr(remote_store, "read_chunks", note)
    return names


def opened(tmp_path, cache_bytes=10**9, address=ADDRESS):
    return ImageReader(RemoteDataset(address, tmp_path / "cache", cache_bytes), cache_bytes=0)


def same(reader, data_set, indices=range(23)):
    return reads_equal(reader, ImageReader(data_set), indices)


def reads_equal(reader, local, indices=range(23)):
    return all(np.array_equal(reader.read(index)[0], local.read(index)[0]) for index in indices)


def flip(store, name):
    content = bytearray(store.cat(f"/bucket/faces/{name}"))
    content[len(content) // 2] ^= 1
    store.pipe(f"/bucket/faces/{name}", bytes(content))


def test_only_needed_shards_are_fetched_and_only_once(data_set, fetched, tmp_path):
    reader = opened(tmp_path)
    assert fetched == ["manifest.json", "index.npy"]
    assert same(reader, data_set, [0, 1, 8, 2, 9])
    assert fetched[2:] == ["shard-000000.tar", "shard-000001.tar"]
    assert same(opened(tmp_path), data_set, [0, 8])
    assert fetched[4:] == ["manifest.json"]
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*.tar")) == fetched[2:4]


def test_workers_read_the_same_as_the_main_process(data_set, store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reader = open_reader(DataRecipe(path=ADDRESS))
    plan = [range(start, start + 6) for start in range(0, 42, 6)]
    local = load_batches(ImageReader(data_set), plan, seed=1, workers=0)
    for ours, theirs in zip(load_batches(reader, plan, seed=1, workers=3), local, strict=True):
        assert ours.images.equal(theirs.images)
    assert (tmp_path / "hdit" / "data" / reader.manifest.root / "shard-000000.tar").exists()


def test_the_cached_shards_stay_within_the_size_limit(data_set, fetched, tmp_path):
    sizes = [(data_set / f"shard-00000{number}.tar").stat().st_size for number in range(4)]
    limit = sum(sorted(sizes)[-2:])
    reader = opened(tmp_path, limit)
    for index in (0, 7, 0, 14, 0, 21, 7):
        assert same(reader, data_set, [index])
        assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.tar")) <= limit
        time.sleep(0.03)  # so that times of use differ
        reader.close()
    # shard 0 was used again before each of the others and stays; 1 had gone, and is fetched once more
    assert fetched[2:] == [f"shard-00000{number}.tar" for number in (0, 1, 2, 3, 1)]


def test_an_evicted_shard_can_still_be_read_where_it_is_open(data_set, store, tmp_path):
    reader = opened(tmp_path, max(path.stat().st_size for path in data_set.glob("*.tar")))
    for index in (0, 7, 1, 8, 2):
        assert same(reader, data_set, [index])
    assert len(list((tmp_path / "cache").rglob("*.tar"))) == 1


def test_threads_requesting_the_same_shard_all_get_it(data_set, store, tmp_path):
    # opened here: NumPy parses the headers with ast, which can fail in several threads at once in Python 3.11
    found, reader, local = [], opened(tmp_path), [ImageReader(data_set) for _ in range(4)]
    threads = [threading.Thread(target=lambda one=one: found.append(reads_equal(reader, one))) for one in local]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
    assert not list((tmp_path / "cache").rglob(".tmp*"))


def test_a_truncated_cached_copy_is_fetched_again(data_set, store, tmp_path):
    assert same(opened(tmp_path), data_set, [0])
    (path,) = (tmp_path / "cache").rglob("shard-000000.tar")
    path.write_bytes(path.read_bytes()[:700])
    assert same(opened(tmp_path), data_set, [0])


@pytest.mark.parametrize("name", ["shard-000000.tar", "index.npy"])
def test_content_that_differs_from_the_manifest_is_refused(store, tmp_path, name):
    flip(store, name)
    with pytest.raises(
        DataError,
        match=f"^memory://bucket/faces/{name}: its .* checksum of the manifest.*, 3 times; upload",
    ):
        opened(tmp_path).read(0)
    assert not list((tmp_path / "cache").rglob(f"*{name}*"))


def test_a_file_longer_than_in_the_manifest_is_not_read_to_its_end(store, tmp_path):
    store.pipe("/bucket/faces/shard-000000.tar", bytes(10**6))
    with pytest.raises(DataError, match=r"shard-000000.tar: has more than [\d,]+ bytes, 3 times; upload"):
        opened(tmp_path).read(0)


def test_a_damaged_manifest_is_named_by_its_address(store, tmp_path):
    flip(store, "manifest.json")
    with pytest.raises(DataError, match=r"^memory://bucket/faces/manifest.json: (damaged|changed)"):
        opened(tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_set_is_named(store, tmp_path):
    with pytest.raises(
        DataError, match=r"memory://bucket/none/manifest.json: not found .FileNotFoundError.*; check the a"
    ):
        opened(tmp_path, address="memory://bucket/none")


def test_a_failed_request_is_retried(data_set, store, tmp_path, monkeypatch):
    chunks, failed = remote_store.read_chunks, set()

    def fail_once(address, most_bytes):
        if address not in failed:
            failed.add(address)
            raise TimeoutError("the network is slow today")
        return chunks(address, most_bytes)

    monkeypatch.setattr(remote_store, "read_chunks", fail_once)
    assert same(opened(tmp_path), data_set)


def test_a_cache_smaller_than_a_shard_is_refused(store, tmp_path):
    with pytest.raises(DataError, match=r"cache: data.cache_gb = 1e-06 is too small for the shards that are fetched"):
        opened(tmp_path, 1000).read(0)


def test_abandoned_files_are_evicted_and_those_in_use_are_not(data_set, store, tmp_path):
    largest = max(path.stat().st_size for path in data_set.glob("*.tar"))
    reader = opened(tmp_path, 2 * largest - 1)
    left = reader.folder / ".tmp-shard-000002.tar-1-1"
    left.write_bytes(bytes(largest))
    with pytest.raises(DataError, match="is too small"):
        reader.read(0)
    os.utime(left, (0, 0))
    assert same(reader, data_set, [0]) and not left.exists()


@pytest.mark.parametrize("address", ["ssh://host/x", "file:///etc", "simplecache::s3://x", "s3::memory://x", "git://x"])
def test_addresses_of_other_kinds_are_refused(address, tmp_path):
    with pytest.raises(UsageError, match=r"data.path = '.*': expected a folder, or an address starting with one of s3"):
        opened(tmp_path, address=address)


def test_without_fsspec_one_line_has_the_install_command(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("fsspec"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"needs fsspec, .*; run: pip install 'hdit-toolkit\[remote\]'"):
        opened(tmp_path)


def test_without_the_package_of_a_store_one_line_names_it(tmp_path):
    with pytest.raises(UsageError, match=r"^data.path = 'az://x/y' needs a package that is not installed: .*adlfs"):
        opened(tmp_path, address="az://x/y")


def test_an_order_that_would_fetch_every_shard_repeatedly_is_refused(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        DataError, match=r"with data.order = 'uniform' .* GB are in use at a time, .*or set data.order = 'blocks'"
    ):
        open_reader(DataRecipe(path=ADDRESS, cache_gb=2e-5))
    with pytest.raises(DataError, match=r"'blocks' .* data.cache_gb is 2e-05; raise .*or lower data.block_shards"):
        open_reader(DataRecipe(path=ADDRESS, cache_gb=2e-5, order="blocks", block_shards=2))
    largest = max(info["size"] for info in store.ls("/bucket/faces") if info["name"].endswith(".tar"))
    assert open_reader(DataRecipe(path=ADDRESS, cache_gb=largest * 2.1e-9, order="blocks", block_shards=1)).read(0)
