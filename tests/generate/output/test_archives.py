"""Samples as a tar and as ADM's npz: readable by other programs, complete or absent, the same bytes every time."""

import io
import tarfile
import tracemalloc

import numpy as np
import pytest
import torch
import webdataset

from hdit_core.errors import UsageError
from hdit_core.generate.output import archives as module
from hdit_core.generate.output.archives import SampleNpz, SampleTar
from hdit_core.generate.pipeline import Samples

NUMBERS = torch.arange(3 * 3 * 4 * 6).reshape(3, 3, 4, 6)
LEVELS = (NUMBERS % 256).permute(0, 2, 3, 1).numpy()


def batches(class_ids=(2, 0, 1)):
    images = (NUMBERS % 256) / 127.5 - 1
    classes = list(class_ids) if class_ids else None
    yield Samples([0, 1], classes and classes[:2], images[:2])
    yield Samples([5], classes and classes[2:], images[2:])


def fill(stream, class_ids=(2, 0, 1)):
    with stream:
        for batch in batches(class_ids):
            stream.write(batch)


def test_the_webdataset_package_reads_the_tar(tmp_path):
    fill(SampleTar(tmp_path / "x.tar"))
    found = list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in found] == ["000000000", "000000001", "000000005"]
    assert np.array_equal(np.stack([sample["png"] for sample in found]), LEVELS)
    assert [sample["cls"] for sample in found] == [2, 0, 1]
    assert [sample["json"]["number"] for sample in found] == [0, 1, 5]


def test_only_temporary_files_of_the_same_output_are_removed(tmp_path):
    for name in (".tmp-x.tar-77", ".tmp-x.tar.old-77", ".tmp-y.tar-77"):
        (tmp_path / name).write_bytes(b"half")
    fill(SampleTar(tmp_path / "x.tar"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-x.tar.old-77", ".tmp-y.tar-77", "x.tar"]


def test_without_classes_the_archive_has_no_class_members():
    file = io.BytesIO()
    fill(SampleTar(file), None)
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        assert {name.partition(".")[2] for name in tar.getnames()} == {"png", "json"}


def test_a_tar_in_a_pipe_equals_the_file_and_is_never_read_back(tmp_path):
    class Pipe(io.RawIOBase):
        content = b""

        def writable(self):
            return True

        def write(self, more):
            Pipe.content += bytes(more)
            return len(more)

    fill(SampleTar(Pipe()))
    fill(SampleTar(tmp_path / "x.tar"))
    assert Pipe.content == (tmp_path / "x.tar").read_bytes()


def test_numpy_reads_the_npz_and_finds_adms_two_arrays(tmp_path):
    fill(SampleNpz(tmp_path / "x.npz", 3, (4, 6, 3)))
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert found.files == ["arr_0", "arr_1"]
        assert found["arr_0"].dtype == np.uint8 and np.array_equal(found["arr_0"], LEVELS)
        assert found["arr_1"].dtype == np.int64 and found["arr_1"].tolist() == [2, 0, 1]
    fill(SampleNpz(tmp_path / "y.npz", 3, (4, 6, 3)), None)
    assert np.load(tmp_path / "y.npz").files == ["arr_0"]


@pytest.mark.parametrize("make", [lambda path: SampleTar(path), lambda path: SampleNpz(path, 3, (4, 6, 3))])
def test_a_file_has_the_same_bytes_every_time_and_is_missing_after_a_failure(tmp_path, make):
    for name in "ab":
        fill(make(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(KeyError), make(tmp_path / "c") as stream:
        stream.write(next(batches()))
        raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    with pytest.raises(UsageError, match="a: already exists and is never replaced"):
        make(tmp_path / "a")


def test_an_npz_that_cannot_be_loaded_is_refused_with_an_alternative(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_NPZ_BYTES", 1 << 30)
    with pytest.raises(UsageError, match=r"an npz of 1,000 images would take 3 GiB.*use a folder or .tar"):
        SampleNpz(tmp_path / "x.npz", 1000, (1024, 1024, 3))


@pytest.mark.parametrize("make", [lambda file: SampleTar(file), lambda file: SampleNpz(file, 700, (1, 1, 1))])
def test_a_long_stream_holds_nothing_that_it_has_written(make):
    class Nowhere(io.RawIOBase):
        def writable(self):
            return True

        def write(self, more):
            return len(more)

    def write(numbers):
        for number in numbers:
            stream.write(Samples([number], None, torch.zeros(1, 1, 1, 1)))

    with make(Nowhere()) as stream:
        write(range(200))
        tracemalloc.start()
        write(range(200, 700))
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert kept < 50_000
