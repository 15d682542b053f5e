"""The identity of a data set: what older versions wrote stays valid, byte for byte."""

import pytest

from hdit_core.data.format.manifest import Contents, root_of

SHA256 = "ab" * 32


def entry(**more):
    return {"bytes": 4096, "crc32": 7, "sha256": SHA256, **more}


FIRST_VERSION = {
    "format": "hdit-data",
    "format_version": 1,
    "height": 16,
    "width": 24,
    "channels": 3,
    "codec": "png",
    "samples": 5,
    "classes": ["cat", "dog"],
    "class_counts": [2, 3],
    "shards": [entry(name="shard-000000.tar", samples=5)],
    "index": entry(),
}
WITH_BUCKETS = FIRST_VERSION | {
    "format_version": 2,
    "buckets": [{"height": 8, "width": 24, "samples": 2}, {"height": 16, "width": 16, "samples": 3}],
    "shards": [entry(name="shard-000000-8x24.tar", samples=2), entry(name="shard-000000-16x16.tar", samples=3)],
}


@pytest.mark.parametrize(
    ("document", "root"),
    [
        (FIRST_VERSION, "7fb12e490a921de7e71a29a030cc8003be8b43ddf7c983b24ff93ee0f91e34f4"),
        (WITH_BUCKETS, "7e07bd576623ab3cceda22d963cb3c1ab743925a8a836ad2adb092a069eafd6d"),
    ],
)
def test_sets_without_features_of_format_3_keep_their_identity_and_keys(document, root):
    contents = Contents.model_validate(document)
    assert root_of(contents) == root
    assert contents.model_dump(mode="json") == document
    assert contents.lowest_version == document["format_version"]
