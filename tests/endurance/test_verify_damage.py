"""Every 97th truncation of a shard and hundreds of flipped bits: each is found, and no image changes unnoticed."""

import shutil

import numpy as np
import pytest

from hdit_core.data.format.verify import verify
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.errors import DataError
from tests.data.class_folders import SIZE, write_pictures


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a prepared set of 33 pictures in one shard of 70 to 80 KB."""
    folder = tmp_path_factory.mktemp("data")
    pictures = write_pictures(folder / "pictures", count=33)
    prepare_data(PrepareSettings(str(pictures), folder / "set", SIZE, shard_size=50))
    return folder / "set"


@pytest.fixture
def shard(whole, tmp_path):
    """Return the one shard of a copy."""
    return shutil.copytree(whole, tmp_path / "copy") / "shard-000000.tar"


def images_of(folder):
    """Read every image anew."""
    reader = ImageReader(folder, cache_bytes=0)
    return [reader.read(number) for number in range(len(reader))]


def damage_named(shard, level):
    return {damage.file for damage in verify(shard.parent, level).defects} == {shard.name}


def test_every_truncation_is_found_by_verifying_and_by_reading(shard):
    content = shard.read_bytes()
    cuts = range(0, len(content), 97)
    for length in cuts:
        shard.write_bytes(content[:length])
        assert damage_named(shard, "quick"), length
        assert damage_named(shard, "full"), length
        with pytest.raises(DataError, match=shard.name):
            images_of(shard.parent)
    print(f"{len(cuts)} of {len(cuts)} cuts found")


def test_every_flipped_bit_is_found_by_verifying_and_changes_no_image_in_silence(whole, shard, flips):
    content, expected = shard.read_bytes(), images_of(whole)
    refused = 0
    for place in np.random.default_rng(0).choice(len(content) * 8, flips, replace=False).tolist():
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        shard.write_bytes(flipped)
        assert damage_named(shard, "full"), place
        try:
            found = images_of(shard.parent)
        except DataError as problem:
            assert shard.name in str(problem)
            refused += 1
        else:  # it hit what lies between the images
            assert all(
                np.array_equal(image, other) and label == label_there
                for (image, label), (other, label_there) in zip(found, expected, strict=True)
            ), place
    print(f"{flips} of {flips} flips found by verifying; {refused} hit an image, and reading refused each")
