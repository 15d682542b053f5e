"""Compressed tars are unpacked once if there is space, and give the same data set otherwise."""

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
from collections import namedtuple

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.sources.files import tar as tar_module
from hdit_core.data.sources.files import unpacked_once
from hdit_core.data.sources.files.unpacked_once import UnpackedOnce

COMPRESSED = {
    "gz": (b"\x1f\x8b", gzip.GzipFile),
    "bz2": (b"BZh", bz2.BZ2File),
    "xz": (b"\xfd7zXZ\x00", lzma.LZMAFile),
}
Usage = namedtuple("Usage", "total used free")


def noise(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, compression, labelled):
    """Write 12 images out of order, and a label for each."""
    with tarfile.open(path, f"w:{compression}") as archive:
        for number in (5, 3, 11, 0, 1, 2, 4, 6, 7, 8, 9, 10):
            files = {f"{number:02}.png": noise(number)}
            files |= {f"{number:02}.cls": b"%d" % (number % 3)} if labelled else {}
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def unpacked_bytes(monkeypatch):
    """Return a list of how many bytes each read of a compressed file has unpacked."""
    counts = []

    def counting(opener):
        class Counting(opener):
            def read(self, size=-1):
                content = super().read(size)
                counts.append(len(content))
                return content

        return Counting

    for magic, opener in COMPRESSED.values():
        monkeypatch.setitem(tar_module._OPENERS, magic, counting(opener))
    return counts


@pytest.mark.parametrize("labelled", [False, True], ids=["tar", "shard"])
@pytest.mark.parametrize("compression", COMPRESSED)
def test_a_compressed_tar_is_unpacked_once(prepare, tmp_path, unpacked_bytes, compression, labelled, monkeypatch):
    monkeypatch.setattr(unpacked_once, "CHUNK_BYTES", 4096)
    path = write(tmp_path / f"a.tar.{compression}", compression, labelled)
    with COMPRESSED[compression][1](path) as file:
        expanded = len(file.read())
    summary = prepare(path)
    assert summary.images == 12 and summary.classes == (3 if labelled else 0)
    assert sum(unpacked_bytes) == expanded


def test_without_disk_space_nothing_is_unpacked_and_the_set_is_the_same(prepare, tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar.gz", "gz", True)
    kept = prepare(path, "kept")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1, 1, 0))
    assert isinstance(tar_module.TarFile(path).file, gzip.GzipFile)
    assert prepare(path, "again").root == kept.root


@pytest.mark.parametrize("most_bytes", [0, 10_000, 10**6])
def test_a_tar_that_expands_too_far_is_read_without_unpacking(tmp_path, monkeypatch, most_bytes):
    monkeypatch.setattr(unpacked_once, "CHUNK_BYTES", 1000)
    content = np.random.default_rng(0).bytes(30_000)
    (tmp_path / "x.gz").write_bytes(gzip.compress(content))
    with UnpackedOnce(gzip.GzipFile(tmp_path / "x.gz"), most_bytes) as file:
        for start, size in [(0, 512), (512, 20_000), (25_000, 9_000), (100, 50), (29_990, 100)]:
            file.seek(start)
            assert file.read(size) == content[start : start + size]
            assert file.tell() == min(start + size, len(content))


def test_a_full_disk_ends_only_the_unpacking(tmp_path, monkeypatch):
    def full(descriptor, content):
        raise OSError(28, "No space left on device")

    content = np.random.default_rng(0).bytes(30_000)
    (tmp_path / "x.gz").write_bytes(gzip.compress(content))
    with UnpackedOnce(gzip.GzipFile(tmp_path / "x.gz"), 10**6) as file:
        monkeypatch.setattr(unpacked_once.os, "write", full)
        assert file.read(100) == content[:100] and file.read(100) == content[100:200]
