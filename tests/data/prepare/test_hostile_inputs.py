"""Untrusted inputs: nothing in them is executed, nothing is written outside, and memory stays bounded."""

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.prepare.convert import convert_all
from hdit_core.data.prepare.transform import InputImage, TransformSettings
from hdit_core.data.sources.files.directory import FolderSource
from hdit_core.data.sources.resolve import open_source
from hdit_core.errors import DataError
from tests.data.class_folders import bytes_of
from tests.data.sources.files.test_folder_and_archive import contents, problems, special_members, write_tar
from tests.data.sources.files.test_tar_headers import header
from tests.data.sources.test_webdataset import write_shards
from tests.data.zoo import animals

MEMORY_BYTES = 2 << 30
EVIL = "evil-marker"

# Prepares each source in 2 GB of writable memory, and prints the result; the libraries of CUDA map more than that.
CHILD = """
import json, resource, sys
from pathlib import Path
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.errors import HditError
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]), int(sys.argv[1])))
for source in sys.argv[3:]:
    settings = PrepareSettings(source=source, out=Path(sys.argv[2]) / Path(source).name, size=(8, 12), labels="none")
    try:
        came = {"images": prepare_data(settings).images}
    except HditError as error:
        came = {"error": str(error)}
    print(json.dumps(came))
"""


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def good():
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (200, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def code(folder):
    """Return files of every kind that some reader runs, each making a file of its own when it does."""
    mark = folder / EVIL
    pickled = pickle.dumps(Payload(mark))
    array = io.BytesIO()
    np.save(array, np.array([Payload(mark)], object), allow_pickle=True)
    archive = io.BytesIO()
    np.savez(archive, images=np.array([Payload(mark)], object))
    shell = f"#!/bin/sh\ntouch {mark}\n".encode()
    return {
        **{f"a.{ending}": pickled for ending in ("pkl", "pickle", "pyd", "pth", "pt", "ckpt", "joblib", "jpg", "png")},
        "b.npy": array.getvalue(),
        "b.npz": archive.getvalue(),
        "c.sh": shell,
        "c.py": f"open({str(mark)!r}, 'w')".encode(),
        "c.yaml": f"!!python/object/apply:os.system ['touch {mark}']".encode(),
        "c.svg": b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg>&e;</svg>',
        "c.eps": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({mark}) (w) file closefile\n".encode(),
        "pipe:touch evil.tar": shell,  # some readers give what follows `pipe:` to a shell
    }


def test_no_input_file_is_executed(prepare, tmp_path):
    files = {**code(tmp_path), "good.png": good()}
    (tmp_path / "folder").mkdir()
    for name, content in files.items():
        (tmp_path / "folder" / name).write_bytes(content)
    (tmp_path / "alone.npz").write_bytes(files["b.npz"])
    write_tar(tmp_path / "a.tar", files=files)
    write_tar(tmp_path / "a.tgz", "w:gz", files=files)
    write_shards(tmp_path / "shards", {"000.png": good(), **{f"000.{name}": data for name, data in files.items()}})
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    for source in ("folder", "a.tar", "a.tgz", "a.zip"):
        summary = prepare(tmp_path / source, name=f"of-{source}", labels="none")
        assert (summary.images, summary.rejects) == (1, len(files) - 1 - 3)  # texts by their names are skipped
    assert open_source(str(tmp_path / "shards")).entries
    with pytest.raises(
        DataError, match=r"none of its 1 files is a usable image; the first is images.npy: \.npy of object"
    ):
        prepare(tmp_path / "alone.npz", name="of-npz")
    assert not list(tmp_path.rglob(EVIL))


NAMES = [
    "../../evil.png", "/etc/evil.png", "a/../../../evil.png", "..\\evil.png", "C:\\evil.png", "~/evil.png",
    "$(touch evil).png", "`touch evil`.png", "; touch evil;.png", "-rf.png", "=cmd().png", "x\x1b[31mred.png",
    "two\nlines.png", "tab\t.png", "\u202egnp.exe", "zero\u200bwidth.png", "é" * 200 + ".png", "n" * 300 + ".png",
    os.fsdecode(b"\xff\xfe.png"), "<script>alert(1)</script>.png", "CON.png", ".png", "...png", "a//b.png", "./c.png",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["a.tar", "a.tgz", "a.zip"])
def test_hostile_names_are_text_wherever_they_are_written(prepare, tmp_path, kind):
    if kind == "a.zip":
        with zipfile.ZipFile(tmp_path / kind, "w") as archive:
            for name in NAMES:
                archive.writestr(name.encode(errors="replace").decode(), good())
    else:
        write_tar(tmp_path / kind, "w:gz" if kind == "a.tgz" else "w", dict.fromkeys(NAMES, good()))
    before = set(tmp_path.parent.rglob("*"))
    hidden = ("..\\evil.png", ".png", "...png")
    assert prepare(tmp_path / kind, labels="none").images == len(NAMES) - len(hidden)
    written = {path for path in set(tmp_path.parent.rglob("*")) - before if path.is_file()}
    assert {path.parent for path in written} == {tmp_path / "set"}
    assert {path.suffix for path in written} <= {".tar", ".npy", ".json", ".jsonl"}
    with tarfile.open(tmp_path / "set" / "shard-000000.tar") as shard:
        assert all(member.name[:9].isdigit() and len(member.name) < 20 for member in shard)


def test_a_name_with_a_null_byte_ends_there(tmp_path):
    name = b"good.png\0/../../etc/passwd"
    (tmp_path / "a.tar").write_bytes(header(name, size=b"00000000003") + b"one".ljust(512, b"\0") + bytes(1024))
    assert contents(open_source(str(tmp_path / "a.tar"))) == [("good.png", b"one")]


def test_links_devices_and_pipes_are_never_opened(prepare, tmp_path):
    write_tar(tmp_path / "a.tar", files={"good.png": good()}, extra=special_members())
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "good.png").write_bytes(good())
    os.mkfifo(folder / "pipe.png")  # reading it would block forever
    (folder / "passwd.png").symlink_to("/etc/passwd")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "up").symlink_to("..")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "deep" / "around").symlink_to(folder, target_is_directory=True)
    assert set(problems(FolderSource(folder)).values()) == {
        "not a regular file", "a link to a target outside the folder", "a broken link",
        "a link to a folder, which is listed under its own name",
    }  # fmt: skip
    assert prepare(folder, name="of-folder", labels="none").images == 1
    assert prepare(tmp_path / "a.tar", name="of-tar", labels="none").images == 1


def test_folders_may_be_nested_deeper_than_the_recursion_limit(tmp_path):
    path = str(tmp_path / "top")
    for _ in range(1200):
        Path(path).mkdir()
        path += "/d"
    try:
        Path(f"{path[:-2]}/a.png").write_bytes(b"x")
        assert [name for name, _ in contents(FolderSource(tmp_path))] == [f"{path[len(str(tmp_path)) + 1 : -2]}/a.png"]
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "top"], check=True)  # Python's own way is by calls in calls


def zeros(count):
    return gzip.compress(bytes(count), 9)


def write_bombs(folder):
    """Write sources that expand to more than any memory, each with one good image if possible."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "declared.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", good())
        archive.writestr("zeros.png", bytes(100_000_000))
    (folder / "large-file.tgz").write_bytes(gzip.compress(header(size=b"\x80" + (20 << 30).to_bytes(11)) + bytes(4096)))
    (folder / "long-name.tgz").write_bytes(
        gzip.compress(header(kind=b"L", size=b"\x80" + (1 << 40).to_bytes(11)) + bytes(4096))
    )
    pax = header(kind=b"x", size=b"\x80" + (3 << 30).to_bytes(11))
    (folder / "long-records.tgz").write_bytes(gzip.compress(pax + bytes(4096)))
    (folder / "endless.tgz").write_bytes(gzip.compress(header(size=b"00000000000")) + zeros(1 << 26))
    (folder / "images").mkdir()
    bombs = {name: animal.data for name, animal in animals().items() if "bomb" in name}
    for name, content in {**bombs, "good.png": good()}.items():
        (folder / "images" / name).write_bytes(content)
    return {
        "declared.zip": {"images": 1},
        "large-file.tgz": "reaches beyond byte",
        "long-name.tgz": "reaches beyond byte",
        "long-records.tgz": "reaches beyond byte",
        "endless.tgz": "the first is a.png: empty file",
        "images": {"images": 3},  # texts and profiles that expand never cost an image
    }


def test_decompression_bombs_are_refused_in_one_line_within_two_gigabytes(tmp_path):
    expected = write_bombs(tmp_path / "bombs")
    command = [sys.executable, "-c", CHILD, str(MEMORY_BYTES), str(tmp_path / "sets")]
    sources = [str(tmp_path / "bombs" / name) for name in expected]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    done = subprocess.run([*command, *sources], capture_output=True, text=True, timeout=300, env=environment)
    came = dict(zip(expected, map(json.loads, done.stdout.splitlines()), strict=False))
    assert len(came) == len(expected), done.stderr
    for name, what in expected.items():
        if isinstance(what, dict):
            assert came[name] == what
        else:
            assert what in came[name]["error"]
    assert not any(path.name.startswith(".tmp") for path in (tmp_path / "sets").rglob("*"))


def test_few_large_files_of_an_archive_are_held_in_memory_at_once(monkeypatch):
    """300 members of 40 MB each would be 12 GB, if as many were taken as of small ones."""
    monkeypatch.setattr("hdit_core.data.prepare.convert.BATCH_BYTES", 1 << 20)
    monkeypatch.setattr("hdit_core.data.prepare.convert.MOST_WAITING_BYTES", 3 << 20)
    taken = []

    def tasks():
        for number in range(12):
            taken.append(number)
            yield InputImage(number, f"{number}.png", -1, None, bytes(1 << 20))

    rules = TransformSettings(8, 12, 3, "center", "png", (0, 0, 0), 0)
    results = convert_all(tasks(), rules, workers=4)
    assert next(results).reason == "not an image of a known format"
    assert len(taken) == 4
    results.close()


def test_a_file_that_grew_since_it_was_listed_is_refused_without_reading_all_of_it(prepare, tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(good() + bytes(5000))
    (tmp_path / "p" / "b.png").write_bytes(good())
    monkeypatch.setattr("hdit_core.data.image.decode.LARGEST_FILE_BYTES", 4000)
    assert (prepare(tmp_path / "p").images, prepare(tmp_path / "p").rejects) == (1, 1)
    assert b"more than 0 MiB" in bytes_of(tmp_path / "set")["rejects.jsonl"]


def test_a_zip_of_overlapping_members_gives_no_more_than_it_holds(tmp_path):
    """Fifield's construction: many entries of the directory lead to one content."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.png", "b.png"):
            archive.writestr(name, good())
    data = bytearray((tmp_path / "a.zip").read_bytes())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = struct.pack("<I", 0)  # where the content of b.png lies: at that of a.png
    (tmp_path / "a.zip").write_bytes(data)
    source = open_source(str(tmp_path / "a.zip"))
    with pytest.raises(ValueError, match="damaged in the archive"):
        source.fetch(1)
