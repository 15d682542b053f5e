"""A prepared set with condition images, vectors and captions, written part by part."""

import hashlib
import io
import zlib

import numpy as np

from hdit_core.data.format.manifest import Contents, Manifest, Origin, root_of, write_manifest
from hdit_core.data.format.manifest_entries import ConditionEntry, IndexEntry, ShardEntry, VectorsEntry
from hdit_core.data.format.shard import (
    CONDITION_ROW_DTYPE,
    INDEX_DTYPE,
    ROW_DTYPE,
    Sample,
    StoredCondition,
    atomic_shard,
)
from hdit_core.data.image.arrays.npy import npy_bytes

HEIGHT, WIDTH, CHANNELS, SAMPLES, DIM = 6, 10, 4, 5, 3
RANGES = ((0.0, 1000.0), (0.0, 65535.0), (10.0, 20.0), (0.0, 1.0))


def images():
    numbers = np.random.Generator(np.random.Philox(1))
    return numbers.integers(0, 65536, (SAMPLES, HEIGHT, WIDTH, CHANNELS)).astype(np.uint16)


def conditions():
    return np.random.Generator(np.random.Philox(2)).normal(size=(SAMPLES, HEIGHT, WIDTH, 2)).astype(np.float32)


def vectors():
    return np.random.Generator(np.random.Philox(3)).normal(size=(SAMPLES, DIM)).astype(np.float32)


def caption(number):
    return f"caption {number}, with a naïve letter" if number % 2 else None


def write_array(path, array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    content = buffer.getvalue()
    path.write_bytes(content)
    return IndexEntry(bytes=len(content), crc32=zlib.crc32(content), sha256=hashlib.sha256(content).hexdigest())


def write_shard(path):
    with atomic_shard(path) as writer:
        for number, (image, condition, vector) in enumerate(zip(images(), conditions(), vectors(), strict=True)):
            stored = StoredCondition(npy_bytes(condition), "npy")
            facts = (-1, {"name": f"{number}", "sha256": "00" * 32}, (HEIGHT, WIDTH), bytes(32))
            sample = Sample(number, npy_bytes(image), "npy", *facts, stored, vector.tobytes(), caption(number))
            writer.add(sample)
    return writer.written


def index_of(rows):
    index = np.zeros(SAMPLES, INDEX_DTYPE)
    index["label"] = -1
    for name in ("offset", "length", "crc32"):
        index[name] = rows[name]
    return index


def write_conditioned_set(folder, **changes):
    """Write the set, with some fields of its contents changed, and return the manifest."""
    folder.mkdir()
    shard = write_shard(folder / "shard-000000.tar")
    rows = np.frombuffer(shard.rows, ROW_DTYPE)
    condition_index = index_of(np.frombuffer(shard.condition_rows, CONDITION_ROW_DTYPE))
    entry = ShardEntry(
        name="shard-000000.tar", bytes=shard.bytes, crc32=shard.crc32, sha256=shard.sha256, samples=SAMPLES
    )
    parts = {
        "index": write_array(folder / "index.npy", index_of(rows)),
        "condition": ConditionEntry(
            channels=2,
            dtype="float32",
            value_range=((-4.0, 4.0),),
            codec="npy",
            index=write_array(folder / "condition.npy", condition_index),
        ),
        "vectors": VectorsEntry(dim=DIM, file=write_array(folder / "vectors.npy", vectors())),
    }
    facts = {"height": HEIGHT, "width": WIDTH, "channels": CHANNELS, "codec": "npy", "samples": SAMPLES}
    kinds = {"format_version": 3, "dtype": "uint16", "value_range": RANGES, "captions": True}
    contents = Contents(**facts | kinds | parts | {"classes": None, "class_counts": None, "shards": (entry,)} | changes)
    (folder / "rejects.jsonl").write_text("")
    manifest = Manifest(
        contents=contents,
        root=root_of(contents),
        origin=Origin(kind="test", name="test", inputs=SAMPLES, fingerprint="0" * 64),
        settings={},
        rejects=0,
        remarks={},
        made_with={},
    )
    write_manifest(folder, manifest)
    return manifest
