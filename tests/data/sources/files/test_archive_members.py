"""Archives give the same contents as tar and unzip."""

import io
import shutil
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
import zlib

import pytest

from hdit_core.data.prepare.class_assignment import label_source
from hdit_core.data.sources.files.archive_members import Member, unpacked
from hdit_core.data.sources.files.directory import FolderSource
from hdit_core.data.sources.resolve import open_source
from hdit_core.errors import DataError
from tests.data.sources.files.test_folder_and_archive import contents, problems, write_tar


def add(archive, name, content=b"", kind=tarfile.REGTYPE, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, len(content)
    archive.addfile(member, io.BytesIO(content))


HARD, SYMBOLIC = tarfile.LNKTYPE, tarfile.SYMTYPE

TARS = {
    "hard links": [("cats/0.png", b"0"), ("cats/1.png", b"1"), ("pets/0.png", b"", HARD, "cats/0.png"),
                   ("pets/1.png", b"", HARD, "./cats/1.png")],
    "symbolic links": [("pets/0.png", b"", SYMBOLIC, "../cats/0.png"), ("cats/0.png", b"0"),
                       ("pets/1.png", b"", SYMBOLIC, "0.png")],
    "the last of several": [("a.png", b"old"), ("b.png", b"b"), ("./a.png", b"new")],
    "a hard link to what is replaced later": [("a.png", b"old"), ("b.png", b"", HARD, "a.png"), ("a.png", b"new")],
    "a file that replaces a link": [("a.png", b"a"), ("b.png", b"", SYMBOLIC, "a.png"), ("b.png", b"b")],
    "doubled slashes": [("a//0.png", b"0"), ("a/./1.png", b"1"), ("./././b.png", b"b")],
    "a folder by its slash": [("a/", b""), ("a/0.png", b"0")],
    "names from the root": [("/a/0.png", b"0"), ("/b/1.png", b"1"), ("//c.png", b"", HARD, "/a/0.png")],
    "files below a link to a folder": [("a/0.png", b"0"), ("b", b"", SYMBOLIC, "a"), ("b/1.png", b"1"),
                                       ("b/0.png", b"new")],
    "another kind of file": [("a.png", b"a", b"7"), ("b.png", b"b", tarfile.AREGTYPE)],
}  # fmt: skip


@pytest.mark.parametrize("ending", ["tar", "tgz"])
@pytest.mark.parametrize("what", TARS)
def test_a_tar_has_the_contents_that_tar_unpacks(tmp_path, what, ending):
    path = tmp_path / f"a.{ending}"
    with tarfile.open(path, "w:gz" if ending == "tgz" else "w") as archive:
        for member in TARS[what]:
            add(archive, *member)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "xf", path, "-C", tmp_path / "out"], check=True)
    expected = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*.png")
    }
    assert dict(contents(open_source(str(path)))) == expected
    assert dict(contents(FolderSource(tmp_path / "out"))) == expected


def write_members(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content, system, mode in members:
            member = zipfile.ZipInfo("x")
            member.filename, member.create_system, member.external_attr = name, system, mode << 16
            archive.writestr(member, content)
    return path


ZIPS = {
    "backslashes of Windows": [("cats\\0.png", b"0", 0, 0), ("dogs\\", b"", 0, 0), ("dogs\\1.png", b"1", 0, 0)],
    "a backslash of Linux": [("cats\\0.png", b"0", 3, 0o100644)],
    "a backslash beside a slash": [("cats/0\\1.png", b"0", 0, 0)],
    "the last of several": [("a.png", b"old", 3, 0), ("a.png", b"new", 3, 0), ("./b.png", b"b", 3, 0)],
    "symbolic links": [("a/0.png", b"0", 3, 0o100644), ("b/0.png", b"../a/0.png", 3, 0o120777)],
    "names from the root": [("/a/0.png", b"0", 3, 0o100644), ("/b/1.png", b"1", 3, 0o100644)],
}


@pytest.mark.skipif(shutil.which("unzip") is None, reason="needs unzip")
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", ZIPS)
def test_a_zip_has_the_contents_that_unzip_unpacks(tmp_path, what):
    path = write_members(tmp_path / "a.zip", ZIPS[what])
    subprocess.run(["unzip", "-oq", path, "-d", tmp_path / "out"], capture_output=True)
    expected = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*.png")
    }
    assert expected and dict(contents(open_source(str(path)))) == expected


def test_a_name_in_unicode_beside_another_encoding_is_the_name_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number, stored in enumerate((b"gr_n/0.png", b"gr_n/1.png")):
            member = zipfile.ZipInfo(stored.decode())
            field = b"\1" + zlib.crc32(b"gr_n/0.png").to_bytes(4, "little") + f"gr\u00fcn/{number}.png".encode()
            member.extra = struct.pack("<HHHH", 1, 2, 7, 0x7075) + struct.pack("<H", len(field)) + field
            archive.writestr(member, b"%d" % number)
    names = ["gr\u00fcn/0.png", "gr_n/1.png"]  # the field of the second belongs to another name
    assert sorted(name for name, _ in contents(open_source(str(tmp_path / "a.zip")))) == sorted(names)


def test_links_to_folders_that_lead_nowhere_are_rejected_with_the_reason(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "good.png", b"0")
        for name, link in {"up": "..", "around": "around/x"}.items():
            add(archive, name, b"", SYMBOLIC, link)
            add(archive, f"{name}/0.png", b"1")
    found = problems(open_source(str(tmp_path / "a.tar")))
    assert found["up/0.png"] == "in a folder that is a link to a target outside the archive"
    assert found["around/0.png"] == "in a folder that is a link to itself"


def test_hard_links_keep_their_classes(tmp_path):
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        for number in range(4):
            add(archive, f"cats/{number}.png", b"%d" % number)
            add(archive, f"pets/{number}.png", b"", HARD, f"cats/{number}.png")
    _, classes, numbers = label_source(open_source(str(tmp_path / "links.tar")), "auto")
    assert classes == ("cats", "pets") and numbers == [0] * 4 + [1] * 4


def test_links_that_lead_nowhere_are_rejected_with_the_reason(tmp_path):
    links = {
        "out.png": "../x.png",
        "root.png": "/etc/passwd",
        "gone.png": "missing.png",
        "self.png": "self.png",
        "dir.png": "d",
    }
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "d/0.png", b"0")
        for name, link in links.items():
            add(archive, name, b"", SYMBOLIC, link)
        add(archive, "hard.png", b"", HARD, "missing.png")
    assert problems(open_source(str(tmp_path / "a.tar"))) == {
        "out.png": "a link to a target outside the archive",
        "root.png": "a link to a target outside the archive",
        "gone.png": "a broken link",
        "self.png": "a link to itself",
        "dir.png": "a link to a folder, which is listed under its own name",
        "hard.png": "a hard link to a file that is not in the archive",
    }


def test_repeated_names_are_logged(tmp_path, caplog):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "a.png", b"old")
        add(archive, "a.png", b"new")
    open_source(str(tmp_path / "a.tar"))
    assert "1 names occur twice, such as 'a.png'; the later file is used" in caplog.text


@pytest.mark.parametrize(
    ("method", "name"),
    [(9, "Deflate64"), (12, "bzip2"), (14, "LZMA"), (93, "Zstandard"), (98, "PPMd"), (77, "method 77")],
)
def test_a_compression_that_cannot_be_read_or_has_no_limit_is_named(tmp_path, method, name):
    path = write_members(tmp_path / "a.zip", [("a.png", b"0", 3, 0)])
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[8:10] = data[directory + 10 : directory + 12] = method.to_bytes(2, "little")
    path.write_bytes(data)
    assert problems(open_source(str(path))) == {
        "a.png": f"compressed by {name}; expected Deflate or none: unpack the archive and give the folder"
    }


def test_a_link_in_a_zip_is_never_expanded_beyond_the_longest_path(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        link = zipfile.ZipInfo("a.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, bytes(20 << 20), zipfile.ZIP_DEFLATED)
        link.file_size = 1000
    tracemalloc.start()
    found = problems(open_source(str(tmp_path / "a.zip")))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found["a.png"].startswith("damaged in the archive")
    assert peak_bytes < 4 << 20


def test_any_size_that_a_zip_states_is_only_a_problem_of_its_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"a")
        archive.writestr("b.png", b"b")
        archive.filelist[0].file_size = (1 << 64) - 1
    source = open_source(str(tmp_path / "a.zip"))
    assert problems(source) == {"a.png": "expands to 18,446,744,073,709,551,615 bytes, too many for an image"}
    assert contents(source) == [("b.png", b"b")]


def test_a_broken_link_does_not_look_at_every_name():
    comparisons = 0

    def count(frame, event, called):
        nonlocal comparisons
        comparisons += event == "c_call" and called.__name__ == "startswith"

    links = [Member(f"{number}.png", 0, 0, 0, None, symbolic_link=f"no/{number}") for number in range(200)]
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        files, _ = unpacked(links)
    finally:
        sys.setprofile(before)
    assert {file.problem for file in files} == {"a broken link"}
    assert comparisons < 10 * len(links)


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        (b"Rar!\x1a\7", "a RAR archive"),
        (b"\x28\xb5\x2f\xfd", "compressed by Zstand"),
    ],
)
def test_another_kind_of_archive_is_named(tmp_path, head, what):
    (tmp_path / "a.tar").write_bytes(head + bytes(600))
    with pytest.raises(DataError, match=f"a.tar: is {what}.*; unpack it and give the folder"):
        open_source(str(tmp_path / "a.tar"))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_labels_of_a_tar_that_are_too_large_in_total_are_refused(tmp_path, monkeypatch, mode):
    monkeypatch.setattr("hdit_core.data.sources.files.tar.MOST_NOTES_BYTES", 1000)
    files = {f"{number}.{ending}": bytes(300) for number in range(3) for ending in ("png", "json")}
    assert open_source(str(write_tar(tmp_path / "a.tar", mode, files))).entries
    with pytest.raises(DataError, match=r"b.tar: its labels .* more than 1,000 bytes in total, .*; split the archive"):
        open_source(str(write_tar(tmp_path / "b.tar", mode, files | {"3.json": bytes(101)})))
