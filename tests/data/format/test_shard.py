"""A shard is written by webdataset's own writer, and its bytes depend on its samples alone."""

import hashlib
import tarfile
import time

import pytest
import webdataset

from hdit_core.data.format.shard import NO_LABEL, Sample, atomic_shard

SAMPLES = [
    Sample(3, b"an image" * 9000, "png", 1, {"name": "a/b.png", "class": "a"}, (8, 12), bytes(32)),
    Sample(12, b"another", "png", NO_LABEL, {"name": "c.png"}, (8, 12), bytes(range(32))),
]
SHA256 = "0fe2d10a9f4a298608158995f78199cc50e651ccaa5cdf0fa1f405ce9852d029"


def write(path):
    with atomic_shard(path) as writer:
        for sample in SAMPLES:
            writer.add(sample)
    return writer.written


def test_a_shard_has_the_same_bytes_at_any_time_and_for_any_user(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1.9e9)
    written = write(tmp_path / "shard.tar")
    content = (tmp_path / "shard.tar").read_bytes()
    assert hashlib.sha256(content).hexdigest() == written.sha256 == SHA256
    assert written.bytes == len(content)
    with tarfile.open(tmp_path / "shard.tar") as tar:
        facts = {(one.mtime, one.uid, one.gid, one.uname, one.gname, one.mode) for one in tar}
    assert facts == {(0, 0, 0, "", "", 0o644)}


def test_shards_are_written_through_webdatasets_writer(tmp_path, monkeypatch):
    calls, real = [], webdataset.TarWriter.write
    monkeypatch.setattr(webdataset.TarWriter, "write", lambda self, sample: calls.append(sample) or real(self, sample))
    write(tmp_path / "shard.tar")
    assert [next(key for key in call if key != "__key__") for call in calls] == ["png", "cls", "json", "png", "json"]


def test_a_failed_shard_is_removed_and_its_error_passed_on(tmp_path):
    with pytest.raises(ValueError, match="full"), atomic_shard(tmp_path / "shard.tar") as writer:
        writer.add(SAMPLES[0])
        raise ValueError("full")
    del writer
    assert list(tmp_path.iterdir()) == []
