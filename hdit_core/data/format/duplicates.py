"""Exact duplicates: recognized by 128 bits of a hash of the original file, or of the pixels that were written."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped, UInt64
from PIL import Image

from hdit_core.data.format.manifest import HASHES, load_rows, read_manifest
from hdit_core.data.format.shard import HASHES_DTYPE
from hdit_core.data.image.arrays.picture import Picture
from hdit_core.errors import DataError

HALF_BYTES = HASHES_DTYPE.itemsize // 2

KINDS = {"source": "file", "pixels": "pixels"}

Hashes = Shaped[np.ndarray, " N"]  # of HASHES_DTYPE
Words = UInt64[np.ndarray, "N 2"]  # one hash per row


def _source_hash(sha256s: Sequence[str]) -> bytes:
    """Return the hash of an original file, or of the files of an image and its condition image."""
    sources = [bytes.fromhex(sha256) for sha256 in sha256s]
    return (sources[0] if len(sources) == 1 else hashlib.sha256(b"".join(sources)).digest())[:HALF_BYTES]


def image_hashes(sha256s: Sequence[str], framed: Sequence[Picture]) -> bytes:
    """Return a row of `HASHES_DTYPE`; with a condition image, only the same pair has the same hashes.

    Args:
        sha256s: SHA-256 of the original files in hexadecimal: the image, then its condition image, if there is one.
        framed: the image to be written, before lossy encoding; then its condition image, if there is one.
    """
    pixels = hashlib.blake2b(digest_size=HALF_BYTES)
    for picture in framed:
        if isinstance(picture, Image.Image):
            pixels.update(f"{picture.mode} {picture.size} ".encode())
            pixels.update(picture.tobytes())
        else:
            pixels.update(f"{picture.dtype} {picture.shape} ".encode())
            pixels.update(np.ascontiguousarray(picture).data)
    return _source_hash(sha256s) + pixels.digest()


def first_duplicate(words: Words) -> Int[np.ndarray, " N"]:
    """Return the index of the first equal row for each row; it may be the row itself."""
    order = np.lexsort((words[:, 1], words[:, 0]))
    new = np.ones(len(words), bool)
    new[1:] = (words[order][1:] != words[order][:-1]).any(1)
    first = np.empty(len(words), np.int64)
    first[order] = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    return first


def read_hashes(folder: Path) -> Hashes:
    """Return the hashes of a prepared data set, one row per image.

    Raises:
        DataError: the set has none, or they are missing or damaged.
    """
    manifest = read_manifest(folder)
    if manifest.hashes is None:
        raise DataError(f"{folder}: made by an early version of hdit, without image hashes; prepare it again")
    return load_rows(folder, HASHES, manifest.hashes, HASHES_DTYPE, manifest.contents.samples)


class _Table:
    """Finds a hash among many; takes 24 bytes per hash."""

    def __init__(self, words: Words) -> None:
        self._order = np.lexsort((words[:, 1], words[:, 0]))
        self._words = words[self._order]
        self._firsts = np.ascontiguousarray(self._words[:, 0])

    def find(self, wanted: UInt64[np.ndarray, " 2"]) -> int | None:
        """Return the row of a hash, or None if there is none."""
        index = int(np.searchsorted(self._firsts, wanted[0]))
        while index < len(self._words) and self._words[index, 0] == wanted[0]:
            if self._words[index, 1] == wanted[1]:
                return int(self._order[index])
            index += 1
        return None


class HashIndex:
    """Hashes of the images of other data sets, which the new set must not contain."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Load the hashes of prepared data sets.

        Raises:
            DataError: one is missing or damaged.
        """
        self.roots = tuple(read_manifest(folder).root for folder in folders)
        self._tables = [
            (folder, kind, _Table(hashes[kind]))
            for folder in folders
            for hashes in [read_hashes(folder)]
            for kind in KINDS
        ]

    def find(self, hashes: bytes) -> str | None:
        """Return a description of the image in another data set with one of these hashes; None if there is none."""
        row = np.frombuffer(hashes, HASHES_DTYPE)[0]
        for folder, kind, table in self._tables:
            if (number := table.find(row[kind])) is not None:
                return f"the same {KINDS[kind]} as image {number} of {folder}"
        return None
