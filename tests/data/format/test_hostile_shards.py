"""Malicious shards: reading them executes nothing and opens nothing outside the set."""

import io
import json
import pickle
import shutil
import zipfile
import zlib

import numpy as np
import pytest
import torch

from hdit_core.data.format.manifest import Manifest, root_of, write_manifest
from hdit_core.data.loader.image_reader import DamagedImage, ImageReader
from tests.data.class_folders import SIZE

MARK = "executed"


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def zipped(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def saved(save, *arguments):
    buffer = io.BytesIO()
    save(buffer, *arguments)
    return buffer.getvalue()


def chunk(kind, content):
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def png(height, width, *chunks):
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", header), *chunks, chunk(b"IEND", b"")])


PAYLOADS = {
    "pickle": lambda mark: pickle.dumps(Payload(mark)),
    "pth": lambda mark: saved(lambda file: torch.save(Payload(mark), file)),
    "npy": lambda mark: saved(np.save, np.array([Payload(mark)], object)),
    "npz": lambda mark: zipped("x.npy", saved(np.save, np.array([Payload(mark)], object))),
    "zip": lambda mark: zipped(f"../../{MARK}", b"x"),
    "python": lambda mark: f"open({str(mark)!r}, 'w')".encode(),
    "shell": lambda mark: f"#!/bin/sh\ntouch {mark}\n".encode(),
    "pipe": lambda mark: f"pipe:touch {mark}".encode(),
    "postscript": lambda mark: f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 8\n({mark}) (w) file\n".encode(),
    "svg": lambda mark: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "gif": lambda mark: b"GIF89a\x0c\x00\x08\x00\x80\x00\x00" + bytes(6) + b";",
    "bomb": lambda mark: png(60_000, 60_000, chunk(b"IDAT", zlib.compress(bytes(1000)))),
    "other size": lambda mark: png(9, 12, chunk(b"IDAT", zlib.compress(bytes(9 * 37)))),
    "no pixels": lambda mark: png(*SIZE),
    "short pixels": lambda mark: png(*SIZE, chunk(b"IDAT", zlib.compress(bytes(10)))),
    "short gamma behind the pixels": lambda mark: png(
        *SIZE, chunk(b"IDAT", zlib.compress(bytes(8 * 37))), chunk(b"gAMA", b"\1")
    ),
    "text bomb": lambda mark: png(*SIZE, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000)))),
    "nothing": lambda mark: b"",
}


def forge(folder, content):
    """Put some content in the place of image 0, and make index and manifest fit, as somebody can who means harm."""
    path, index = folder / "shard-000000.tar", np.load(folder / "index.npy")
    index[0] = (0, path.stat().st_size, len(content), zlib.crc32(content), 0)
    with path.open("ab") as file:
        file.write(content)
    np.save(folder / "index.npy", index)
    entry = (folder / "index.npy").read_bytes()
    document = json.loads((folder / "manifest.json").read_text())
    del document["checksum"]
    document["contents"]["shards"][0]["bytes"] = path.stat().st_size
    document["contents"]["index"].update(bytes=len(entry), crc32=zlib.crc32(entry))
    manifest = Manifest.model_validate(document)
    write_manifest(folder, manifest.model_copy(update={"root": root_of(manifest.contents)}))


@pytest.mark.parametrize("kind", PAYLOADS)
def test_content_that_is_not_an_image_of_the_set_is_refused_and_nothing_runs(data_set, tmp_path, kind):
    folder = shutil.copytree(data_set, tmp_path / "set")
    forge(folder, PAYLOADS[kind](tmp_path / MARK))
    reader = ImageReader(folder)
    with pytest.raises(DamagedImage, match=r"shard-000000.tar: image 0 at byte [\d,]+: [^\n]*$"):
        reader.read(0)
    assert not (tmp_path / MARK).exists()
    assert np.array_equal(reader.read(1)[0], ImageReader(data_set).read(1)[0])
