"""Every truncation and flipped bit of a shard is found, and any number of ranks and workers gives the same inputs."""

import shutil

import numpy as np
import pytest

from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.errors import DataError
from tests.conftest import prepare_tiny
from tests.data.elastic import same_inputs

WORLDS, WORKERS = (1, 2, 3, 4, 6), (0, 1, 3)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """Return a data set of one shard, which each test leaves as it was."""
    folder = tmp_path_factory.mktemp("reading")
    prepare_tiny(folder, seed=0)
    prepare_data(PrepareSettings(str(folder / "pictures"), folder / "set", (16, 24)))
    return folder / "set" / "shard-000000.tar"


def read_all(folder):
    reader = ImageReader(folder, cache_bytes=0)
    return np.stack([reader.read(index)[0] for index in range(len(reader))])


def test_every_truncation_is_found_when_reading(shard):
    whole = shard.read_bytes()
    opened = ImageReader(shard.parent, cache_bytes=0)
    last = int(opened._index["offset"][-1]) + int(opened._index["length"][-1])
    for length in range(0, len(whole), 97):
        shard.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"shard-000000.tar: has [\d,]+ bytes, the manifest says"):
            ImageReader(shard.parent)
        if length < last:  # cut while it was open: what is gone is images
            with pytest.raises(DataError, match=r"shard-000000.tar: image \d+ at byte [\d,]+: .* damaged"):
                [opened.read(index) for index in range(len(opened))]
    shard.write_bytes(whole)
    assert len(read_all(shard.parent)) == 20


def test_every_flipped_bit_is_found_or_changes_no_image(shard, flips):
    whole, expected = shard.read_bytes(), read_all(shard.parent)
    index = ImageReader(shard.parent)._index
    random, found = np.random.default_rng(0), 0
    for _ in range(flips):
        place, bit = int(random.integers(len(whole))), int(random.integers(8))
        content = bytearray(whole)
        content[place] ^= 1 << bit
        shard.write_bytes(content)
        inside = (index["offset"] <= place) & (place < index["offset"] + index["length"])
        if inside.any():
            with pytest.raises(DataError, match=rf"image {np.flatnonzero(inside)[0]} at byte .* damaged"):
                read_all(shard.parent)
            found += 1
        else:
            assert np.array_equal(read_all(shard.parent), expected)
    shard.write_bytes(whole)
    assert found > flips / 10  # small images are a small part of a tar


@pytest.mark.parametrize("order", ["uniform", "blocks"])
@pytest.mark.parametrize("sizes", [(), ((16, 24), (24, 16))])
def test_any_sequence_of_ranks_and_workers_reads_the_same_as_one_process(trained, tiny_data, tmp_path, order, sizes):
    folder = tiny_data
    if sizes:
        pictures = shutil.copytree(tiny_data.parent / "pictures", tmp_path / "pictures")
        turn_every_third(pictures)
        folder = tmp_path / "set"
        prepare_data(PrepareSettings(str(pictures), folder, sizes[0], buckets=sizes, shard_size=5))
    values = {"data.path": str(folder), "data.order": order, "data.block_shards": 2, "data.augment_prob": 0.5}
    growth = [{"after_images": 120, "batch_size": 24}]
    recipe = trained(values | {"train.batch_size": 12, "train.batch_growth": growth, "train.num_images": 2000})
    cells = [(world, workers) for world in WORLDS for workers in WORKERS]
    np.random.default_rng(0).shuffle(cells)
    same_inputs(recipe, [tuple(map(int, cell)) for cell in cells], steps_each=3)


def turn_every_third(pictures):
    """Make a third of some pictures upright."""
    from PIL import Image

    for path in sorted(pictures.rglob("*.png"))[::3]:
        with Image.open(path) as picture:
            picture.rotate(90, expand=True).save(path)
