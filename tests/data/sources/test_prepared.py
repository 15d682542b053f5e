"""A prepared data set as a source: each image and class is checked against its index."""

import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.sources.prepared import PreparedSource
from hdit_core.data.sources.resolve import open_source
from hdit_core.errors import DataError
from tests.data.sources.files.test_folder_and_archive import problems


def test_preparing_a_prepared_set_again_keeps_names_classes_and_pixels(pictures, prepare, tmp_path):
    prepare(pictures, name="one")
    summary = prepare(tmp_path / "one", name="two")
    assert (summary.images, summary.rejects, summary.classes) == (23, 0, 3)
    one, two = ImageReader(tmp_path / "one"), ImageReader(tmp_path / "two")
    assert one.manifest.contents.classes == two.manifest.contents.classes
    for index in range(len(one)):
        assert np.array_equal(one.read(index)[0], two.read(index)[0])
        assert one.read(index)[1] == two.read(index)[1]
    sources = [open_source(str(tmp_path / name)) for name in ("one", "two")]
    assert [entry.name for entry in sources[0].entries] == [entry.name for entry in sources[1].entries]


def test_a_flipped_bit_in_a_prepared_set_is_a_reject(pictures, prepare, tmp_path):
    prepare(pictures, name="one", codec="webp")
    source = PreparedSource(tmp_path / "one")
    shard = tmp_path / "one" / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[512 + 60] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="does not have the checksum of the index: damaged"):
        source.fetch(0)
    assert source.fetch(1)


@pytest.mark.parametrize("label", [b"1", b"x"])
def test_a_class_number_of_a_prepared_set_that_differs_from_its_index_is_a_reject(pictures, prepare, tmp_path, label):
    prepare(pictures, name="one")
    shard = tmp_path / "one" / "shard-000000.tar"
    with tarfile.open(shard) as archive:
        place = archive.getmember("000000000.cls").offset_data
    data = bytearray(shard.read_bytes())
    data[place : place + 1] = label
    shard.write_bytes(data)
    found = problems(PreparedSource(tmp_path / "one"))
    assert list(found.values()) == ["its class is not that of the index: damaged"]


def test_a_data_set_whose_parts_do_not_belong_together_is_refused(pictures, prepare, tmp_path):
    prepare(pictures, name="one")
    prepare(pictures, name="two", codec="webp")
    shutil.copy(tmp_path / "two" / "shard-000001.tar", tmp_path / "one")
    with pytest.raises(DataError, match="one: its shards do not contain the images of its index"):
        open_source(str(tmp_path / "one"))
    shutil.copy(tmp_path / "two" / "index.npy", tmp_path / "one")
    with pytest.raises(DataError, match=r"index.npy: (has [\d,]+ bytes|its checksum does not match the manifest)"):
        open_source(str(tmp_path / "one"))


def test_greyscale_images_stay_greyscale(prepare, tmp_path):
    (tmp_path / "g").mkdir()
    Image.fromarray(np.arange(108, dtype=np.uint8).reshape(9, 12)).save(tmp_path / "g" / "a.png")
    prepare(tmp_path / "g", name="one", channels=1)
    assert prepare(tmp_path / "one", name="two").channels == 1
