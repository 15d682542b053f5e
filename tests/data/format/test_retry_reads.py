"""Reads that fail temporarily are retried; then the run can be resumed, and no image counts as damaged."""

import errno
import os

import pytest

from hdit_core.data.format import retry_reads
from hdit_core.data.format.retry_reads import StorageUnavailable, read_image_file, retry_transient
from hdit_core.data.image.unusable import UnusableImageError
from hdit_core.data.loader.conditioning import Conditioning
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.loader.order import UniformOrder
from hdit_core.data.loader.quarantine import read_intact


class Failing:
    """Fails a number of times with an error, then answers."""

    def __init__(self, times, number):
        self.times, self.number, self.calls = times, number, 0

    def __call__(self):
        self.calls += 1
        if self.calls <= self.times:
            raise OSError(self.number, os.strerror(self.number))
        return "answer"


@pytest.fixture
def short_pauses(monkeypatch):
    monkeypatch.setattr(retry_reads, "PAUSES_S", (0.001,) * 3)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE])
def test_a_read_that_fails_temporarily_is_retried(short_pauses, tmp_path, number):
    read, reopened = Failing(3, number), []
    assert retry_transient(tmp_path / "x", read, before_retry=lambda: reopened.append(read.calls)) == "answer"
    assert reopened == [1, 2, 3]


def test_a_read_that_keeps_failing_ends_with_the_exit_code_of_a_run_that_can_be_resumed(short_pauses, tmp_path):
    with pytest.raises(
        StorageUnavailable, match=r"x: cannot be read .Stale file handle., tried for .* to resume"
    ) as end:
        retry_transient(tmp_path / "x", Failing(9, errno.ESTALE))
    assert end.value.exit_code == 75
    with pytest.raises(StorageUnavailable, match="Too many open files; raise the limit with `ulimit -n"):
        retry_transient(tmp_path / "x", Failing(9, errno.EMFILE))


def test_a_permanent_error_is_not_retried(tmp_path):
    read = Failing(1, errno.EACCES)
    with pytest.raises(PermissionError):
        retry_transient(tmp_path / "x", read)
    assert read.calls == 1


def test_an_image_that_is_temporarily_unreadable_is_not_reported_as_damaged(
    short_pauses, prepare, pictures, tmp_path, monkeypatch
):
    prepare(pictures)
    reader, whole = ImageReader(tmp_path / "set"), ImageReader(tmp_path / "set")
    real, failures = os.pread, iter([errno.ESTALE, errno.EIO, None])

    def pread(*arguments):
        if number := next(failures, None):
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    monkeypatch.setattr(os, "pread", pread)
    sample, damaged = read_intact(reader, UniformOrder(0, len(reader)), 0, 5, 3, Conditioning())
    image, label = sample.image, sample.label
    assert damaged == {} and (image == whole.read(5)[0]).all() and label == whole.label(5)


def test_a_missing_folder_is_reported_as_a_lost_mount_and_not_as_a_damaged_image(
    short_pauses, prepare, pictures, tmp_path
):
    prepare(pictures)
    reader = ImageReader(tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageUnavailable, match="is gone: a lost mount"):
        reader.read(0)
    (tmp_path / "elsewhere").rename(tmp_path / "set")
    assert reader.read(0)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EIO, StorageUnavailable),
        (errno.ENOMEM, OSError),
        (errno.EACCES, UnusableImageError),
        (errno.ENOENT, UnusableImageError),
    ],
)
def test_a_storage_error_is_no_reject_and_a_denied_permission_is(short_pauses, tmp_path, monkeypatch, number, expected):
    monkeypatch.setattr(retry_reads, "read_file", lambda path: Failing(99, number)())
    with pytest.raises(expected, match=os.strerror(number)):
        read_image_file(tmp_path / "a.png")


def test_an_image_file_is_read_again_when_the_storage_fails_temporarily(short_pauses, tmp_path, monkeypatch):
    read = Failing(3, errno.ESTALE)
    monkeypatch.setattr(retry_reads, "read_file", lambda path: read().encode())
    assert read_image_file(tmp_path / "a.png") == b"answer"
