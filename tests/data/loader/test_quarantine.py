"""Damaged images: an error, or replaced up to a limit, by the same images for any workers and ranks."""

import shutil

import numpy as np
import pytest
import torch

from hdit_core.checkpoint.log import read_log
from hdit_core.data.loader.batch import load_batches
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.loader.quarantine import Quarantine
from hdit_core.distributed import World
from hdit_core.errors import DataError
from hdit_core.train.run import train
from tests.data.elastic import image_at


def damage(folder, images):
    """Flip a bit in each of some images."""
    for row in np.load(folder / "index.npy")[images]:
        path = folder / f"shard-{row['shard']:06}.tar"
        content = bytearray(path.read_bytes())
        content[int(row["offset"]) + 50] ^= 4
        path.write_bytes(content)
    return folder


@pytest.fixture
def damaged(data_set, tmp_path):
    """A data set of 23 images of which 3, 4 and 17 are damaged."""
    return ImageReader(damage(shutil.copytree(data_set, tmp_path / "damaged"), [3, 4, 17]), cache_bytes=0)


def load(reader, plan, limit, workers=0):
    quarantine, images = Quarantine(limit), []
    for batch in load_batches(reader, plan, seed=3, workers=workers, quarantine=quarantine):
        quarantine.count(World().union, reader.where)
        images.append(batch.images)
    return torch.cat(images)


def test_the_next_intact_image_replaces_a_damaged_one(damaged, data_set):
    sound = ImageReader(data_set)
    images = load(damaged, [range(46)], 3)
    for number in range(46):
        index, later = image_at(3, number, 23), 0
        while index in (3, 4, 17):
            later += 1
            index = image_at(3, number + later, 23)
        expected = torch.from_numpy(sound.read(index)[0].astype(np.float32)).permute(2, 0, 1) / 127.5 - 1
        torch.testing.assert_close(images[number], expected)


@pytest.mark.parametrize("workers", [1, 3])
def test_replacements_do_not_depend_on_ranks_workers_or_micro_batches(damaged, workers):
    whole = load(damaged, [range(46)], 3)
    pieces = [range(start, min(start + 5, 46)) for start in range(0, 46, 5)]
    assert torch.equal(whole, load(damaged, pieces, 3, workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_each_damaged_image_is_reported_once(damaged, workers, notes):
    load(damaged, [range(start, start + 6) for start in range(0, 66, 6)], 3, workers)
    assert len(notes) == 3
    assert notes[2].startswith("damaged image 3 of at most 3, replaced by another: ")
    assert sorted(int(note.split(": image ")[1].split()[0]) for note in notes) == [3, 4, 17]


@pytest.mark.parametrize("workers", [0, 2])
def test_more_damaged_images_than_allowed_are_an_error(damaged, workers):
    with pytest.raises(
        DataError, match=r"^more than data.max_damaged = 2 images are damaged; the last: .*image (3|4|17) at byte"
    ):
        load(damaged, [range(start, start + 1) for start in range(46)], 2, workers)


def test_by_default_the_first_damaged_image_is_an_error_that_names_it(damaged):
    with pytest.raises(DataError, match=r"^[^\n]*shard-00000\d.tar: image (3|4|17) at byte [^\n]*damaged[^\n]*$"):
        load(damaged, [range(23)], 0)


def test_a_set_without_intact_images_is_an_error(data_set, tmp_path):
    with pytest.raises(DataError, match=r"too many consecutive images are damaged; the last: .*shard"):
        load(ImageReader(damage(shutil.copytree(data_set, tmp_path / "all"), range(23))), [range(3)], 30)


def test_images_of_a_truncated_or_missing_shard_are_replaced(data_set, tmp_path, notes):
    cut = shutil.copytree(data_set, tmp_path / "cut")
    index = np.load(cut / "index.npy")
    last_of_shard_1 = int(np.flatnonzero(index["shard"] == 1)[-1])
    with (cut / "shard-000001.tar").open("r+b") as file:
        file.truncate(int(index["offset"][last_of_shard_1]) + 10)
    (cut / "shard-000003.tar").unlink()
    lost = 1 + int(np.sum(index["shard"] == 3))
    with pytest.raises(DataError, match=r"shard-000003.tar: cannot be read"):
        ImageReader(cut, max_damaged=lost - 1)
    load(ImageReader(cut, max_damaged=lost), [range(46)], lost)
    assert len(notes) == lost


def test_a_run_reports_and_counts_the_images_that_it_skips(tmp_path, trained, tiny_data, notes):
    folder = damage(shutil.copytree(tiny_data, tmp_path / "data"), [5, 11])
    recipe = trained({"data.path": str(folder), "data.max_damaged": 2, "train.num_images": 32})
    train(recipe, tmp_path / "run")
    assert sum(note.startswith("damaged image") for note in notes) == 2
    assert [line["damaged_images"] for line in read_log(tmp_path / "run")][-1] == 2
    with pytest.raises(DataError, match=r"more than data.max_damaged = 1 images are damaged"):
        train(trained({"data.path": str(folder), "data.max_damaged": 1}), tmp_path / "other")
