"""Pictures and data sets that several tests of the data take."""

import shutil

import pytest
from PIL import Image

from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from tests.data.class_folders import SIZE, write_pictures


@pytest.fixture
def pictures(tmp_path):
    """Return a folder of 23 pictures in three classes, and two files that cannot be used."""
    return write_pictures(tmp_path / "pictures")


@pytest.fixture
def prepare(tmp_path):
    """Return a function that prepares a source into `tmp_path / name`."""

    def make(source, name="set", on_progress=None, **settings):
        chosen = {"size": SIZE, "shard_size": 7, **settings}
        return prepare_data(PrepareSettings(source=str(source), out=tmp_path / name, **chosen), on_progress)

    return make


@pytest.fixture(scope="session")
def data_set(tmp_path_factory):
    """Return a prepared data set, not to be changed: 23 pictures of 8x12 pixels, 3 classes, 4 shards."""
    folder = tmp_path_factory.mktemp("data")
    pictures = write_pictures(folder / "pictures")
    prepare_data(PrepareSettings(source=str(pictures), out=folder / "set", size=SIZE, shard_size=7))
    return folder / "set"


@pytest.fixture(scope="session")
def bucket_set(tmp_path_factory):
    """Return a prepared data set of two sizes, with class names, in six shards."""
    folder = tmp_path_factory.mktemp("buckets")
    pictures = write_pictures(folder / "pictures")
    for path in sorted(pictures.rglob("0*.png"))[::2]:
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_90).save(path)
    prepare_data(PrepareSettings(str(pictures), folder / "set", SIZE, shard_size=9, buckets=((8, 12), (12, 8))))
    return folder / "set"


@pytest.fixture(params=["one size", "two sizes"])
def either_copy(request, data_set, bucket_set, tmp_path):
    """Return a data set that may be damaged."""
    source = data_set if request.param == "one size" else bucket_set
    return shutil.copytree(source, tmp_path / "copy")
