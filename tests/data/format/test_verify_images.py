"""Deep verification finds images that are wrong although every checksum fits."""

import io
import json
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.format.verify import verify
from hdit_core.data.image.codec import encode
from hdit_core.data.prepare.finalize import _write_array as write_array
from tests.data.damaging import files_of, first_shard, flip, forge, rewrite


def test_deep_verification_names_the_images_with_flipped_bits(either_copy):
    path = first_shard(either_copy)
    row = np.load(either_copy / "index.npy")[2]
    flip(path, int(row["offset"]) + 5)
    problems = [damage.problem for damage in verify(either_copy, "deep").defects]
    assert problems[0] == "altered: its SHA-256 differs from the manifest"
    assert problems[1].startswith("image 2 (00")
    assert problems[1].endswith(f"at byte {row['offset']:,}: does not have the checksum of the index")
    assert len(problems) == 2


def reject_json(name, content):
    return b"[" * len(content) if name.endswith(".json") else content


def other_json(name, content):
    return json.dumps(json.loads(content) | {"sha256": "0" * 64}).encode() if name.endswith(".json") else content


def other_label(name, content):
    return b"2" if name.endswith(".cls") else content


def other_image(name, content):
    if not name.endswith(".png"):
        return content
    size = Image.open(io.BytesIO(content)).size
    black = encode(Image.new("RGB", size), "png")
    return black + bytes(len(content) - len(black))


def no_image(name, content):
    return bytes(len(content)) if name.endswith(".png") else content


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (reject_json, "damaged (Expecting value"),
        (other_json, "the hash of its original file is not that"),
        (other_label, "class '2' in the tar, 0 in the index"),
        (other_image, "the hash of its pixels is not that"),
        (no_image, "damaged (not a PNG image"),
    ],
)
def test_deep_verification_finds_wrong_contents_with_right_checksums(either_copy, change, problem):
    """As after a fault in memory while the set was made, or where somebody changed it with care."""
    path = first_shard(either_copy)
    rewrite(path, change)
    index = np.load(either_copy / "index.npy")
    data = path.read_bytes()
    crcs = [
        zlib.crc32(data[o : o + n]) for o, n in zip(index["offset"].tolist(), index["length"].tolist(), strict=True)
    ]
    index["crc32"] = np.where(index["shard"] == 0, crcs, index["crc32"])
    forge(either_copy, index=write_array(either_copy / "index.npy", index))
    assert verify(either_copy, "full").defects == ()
    verdict = verify(either_copy, "deep")
    assert files_of(verdict) == {path.name}
    assert all(problem in damage.problem for damage in verdict.defects)


def test_deep_verification_finds_missing_and_misplaced_members(either_copy):
    path = first_shard(either_copy)
    rewrite(path, lambda name, content: content + bytes(600) if name.endswith(".png") else content)
    forge(either_copy)
    assert "is not at the position in the index" in verify(either_copy, "deep").defects[0].problem
    path.write_bytes(bytes(10240))
    forge(either_copy)
    assert "holds 0 samples, the index" in verify(either_copy, "deep").defects[0].problem
    path.write_bytes(b"no tar at all" * 100)
    forge(either_copy)
    assert "not an intact tar" in verify(either_copy, "deep").defects[0].problem


def test_a_repeated_member_or_a_link_in_a_shard_is_reported(either_copy):
    path = first_shard(either_copy)
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("000000000.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    forge(either_copy)
    assert "'000000000.png' is not a file, or occurs twice" in verify(either_copy, "deep").defects[0].problem


def test_no_more_than_twenty_images_of_a_shard_are_named(pictures, prepare, tmp_path):
    prepare(pictures, shard_size=25)
    path = tmp_path / "set" / "shard-000000.tar"
    rewrite(path, no_image)
    problems = [damage.problem for damage in verify(tmp_path / "set", "deep").defects]
    assert len(problems) == 22
    assert problems[-1] == "and 3 more"
