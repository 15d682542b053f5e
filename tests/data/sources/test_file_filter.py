"""Which files are inputs: the same rule for folders, archives, shards, lists, streams and evaluation."""

import io

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.image_sets.open_images import open_images
from hdit_core.data.image_sets.tar_stream import read_tar
from hdit_core.data.sources.file_filter import choose_inputs, is_hidden, is_text
from hdit_core.data.sources.resolve import open_source
from hdit_core.data.sources.webdataset import ShardedSource
from tests.data.sources.files.test_folder_and_archive import write_folder, write_tar, write_zip

HIDDEN = [
    ".ipynb_checkpoints/0-checkpoint.png", ".thumbnails/0.png", "a/.git/objects/x.png", "__MACOSX/._0.png", "a/._0.png",
    "._0.png", ".DS_Store", "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/0.png", "$RECYCLE.BIN/$R0.png", "Thumbs.db",
    "a/THUMBS.DB", "desktop.ini", "System Volume Information/x.png", "lost+found/x.png", ".Trash-1000/files/0.png",
    "Icon\r", "~$list.png", "0.png~", "0.png.crdownload", "0.png.part", "__pycache__/x.png", ".hidden.png",
    "@Recycle/0.png", "@Recently-Snapshot/0.png", "FOUND.000/FILE0000.CHK", "0.png:Zone.Identifier", "Zone.Identifier",
    "0.png.filepart", "0.png.aria2", "MVI_1.THM",
]  # fmt: skip
TEXTS = [
    "README.md", "LICENSE", "a/labels.csv", "dataset.json", "metadata.jsonl", "0.txt", "0.caption", "a/0.xml",
    "0.xmp", "0.jpg.xmp", "0.AAE", "0.png.asc", "SHA512SUMS", "photos.torrent", "0.png.dvc",
]  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_and_system_files_are_skipped(name):
    assert is_hidden(name)


@pytest.mark.parametrize("name", TEXTS)
def test_text_files_are_skipped(name):
    assert is_text(name) and not is_hidden(name)


def test_other_files_are_judged_by_their_content():
    names = [
        "0.png",
        "a/1.PNG",
        "a.b/2.png",
        "no-ending",
        "thumbs/3.png",
        "clip.mp4",
        "raw.nef",
        "../4.png",
        "/a/5.png",
    ]
    assert choose_inputs(names, "x") == [True] * len(names)


def test_the_image_grid_of_samples_is_skipped_and_another_grid_is_not():
    names = ["s/grid.png", "s/samples.json", "s/00000000.png", "grid.png"]
    assert choose_inputs(names, "x") == [False, False, True, True]


def test_a_source_inside_a_hidden_folder_is_not_skipped():
    names = [".cache/x/0.png", ".cache/x/.thumbnails/0.png"]
    assert choose_inputs(names, "x") == [True, False]
    assert choose_inputs(names, "x", is_folder=True) == [False, False]


def test_the_number_of_skipped_files_is_logged(caplog):
    caplog.set_level("INFO", "hdit")
    choose_inputs(["a.png", ".DS_Store", "notes.txt"], "photos")
    choose_inputs(["a.png", "notes.txt"], "b")
    assert caplog.messages == [
        "photos: skipped 2 hidden, system or text files such as '.DS_Store'",
        "b: skipped 1 hidden, system or text file, 'notes.txt'",
    ]


def test_files_that_hdit_writes_next_to_its_images_are_skipped_without_a_word(caplog):
    caplog.set_level("INFO", "hdit")
    own = ["samples.json", ".lock", "grid.png", "restored-00000.jsonl"]
    assert choose_inputs(["00000000.png", *own], "samples") == [True, False, False, False, False]
    assert caplog.messages == []


def png(level):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {"p/0.png": png(10), "p/1.png": png(20), **{f"p/{name}": png(90) for name in HIDDEN}, "p/notes.txt": b"text"}


def test_every_kind_of_source_and_the_evaluation_use_the_same_files(tmp_path):
    (tmp_path / "folder").mkdir()
    write_folder(tmp_path / "folder", FILES)
    write_zip(tmp_path / "a.zip", FILES)
    write_tar(tmp_path / "a.tar", files=FILES)
    write_tar(tmp_path / "a.tgz", "w:gz", files=FILES)
    (tmp_path / "l.lst").write_bytes(b"\0".join(f"folder/{name}".encode() for name in FILES))
    shard = write_tar(tmp_path / "s.tar", files={**FILES, "p/0.cls": b"0", "p/1.cls": b"1"})
    sources = [open_source(str(tmp_path / name)) for name in ("folder", "a.zip", "a.tar", "a.tgz", "l.lst")]
    for source in [*sources, ShardedSource("s", [shard])]:
        assert [entry.name[-7:] for entry in source.entries] == ["p/0.png", "p/1.png"], source.kind
    for name in ("folder", "a.zip", "a.tar"):
        images = open_images(str(tmp_path / name))
        assert images.count == 2 and images.remarks == ()


def test_a_stream_that_is_scored_skips_hidden_files(tmp_path, monkeypatch):
    data = io.BytesIO(write_tar(tmp_path / "a.tar", files=FILES).read_bytes())
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": data}))
    assert [int(read()[0, 0, 0]) for read in open_images("-").readers()] == [10, 20]
    assert list(read_tar(io.BytesIO((tmp_path / "a.tar").read_bytes()).read, lambda name: name == "p/0.png", "x"))


def test_skipped_files_do_not_count_as_bad(prepare, tmp_path):
    summary = prepare(write_zip(tmp_path / "a.zip", FILES), max_bad="0")
    assert (summary.images, summary.rejects, summary.classes) == (2, 0, 0)


def test_the_grid_of_hdit_sample_is_skipped_without_its_record():
    names = ["grid.png", "00000000.png", "00000001.png", ".DS_Store", "a/grid.png", "a/00000007.png"]
    assert choose_inputs(names, "x") == [False, True, True, False, False, True]
    assert choose_inputs(["grid.png", "cat.png", "00000001.png"], "x") == [True, True, True]
    assert choose_inputs(["grid.png"], "x") == [True]


def test_the_grid_beside_a_folder_of_samples_is_skipped_in_the_parent_folder():
    names = ["a-grid.png", "a/00000000.png", "a/samples.json", "b-grid.png", "b/00000001.png"]
    assert choose_inputs(names, "x", is_folder=True) == [False, True, False, False, True]
    assert choose_inputs(["c-grid.png", "c/cat.png"], "x", is_folder=True) == [True, True]
