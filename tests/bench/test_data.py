"""`hdit bench data` compares equal work: the same pixels as its baselines, and a set that opens."""

import io

import numpy as np
import pytest
from PIL import Image

from hdit_core.bench import data as data_module
from hdit_core.bench.data import bench_data, make_pictures, prepare_barely
from hdit_core.bench.open_data import OpeningFigures, make_hollow_set
from hdit_core.bench.timing import Rounds
from hdit_core.data.loader.image_reader import DamagedImage, ImageReader
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.errors import UsageError


@pytest.fixture
def pictures(tmp_path):
    return make_pictures(tmp_path / "pictures", 3, 30, 50)


def test_every_rate_comes_with_its_lower_bound(monkeypatch, pictures):
    monkeypatch.setattr(data_module, "bench_opening", lambda: OpeningFigures(9, 0.5, None))
    figures = bench_data(pictures, (8, 12), images=2, rounds=Rounds(warm_up=0, least=1, most=1)).to_json()
    assert figures["images"] == 2 and figures["size"] == [8, 12]
    assert figures["images_per_s"].keys() == figures["times"].keys()
    rates = figures["images_per_s"]
    assert figures["of_bound"]["read"] == pytest.approx(rates["read"] / rates["read bound"])
    assert figures["of_bound"]["prepare with 2"] == pytest.approx(rates["prepare with 2"] / rates["prepare bound"])
    assert set(figures["order_us_per_image"]) == {"1000", "100000000"}
    assert figures["opening"] == {"images": 9, "open_s": 0.5, "peak_bytes": None}


def test_the_lower_bound_of_preparation_computes_the_same_pixels(tmp_path, pictures, monkeypatch):
    prepare_data(PrepareSettings(str(pictures), tmp_path / "set", (8, 12), labels="none"))
    made = []

    class Kept(io.BytesIO):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(data_module.io, "BytesIO", Kept)
    prepare_barely(sorted(pictures.iterdir()), (8, 12))
    monkeypatch.undo()
    reader = ImageReader(tmp_path / "set")
    for index, buffer in enumerate(made):
        assert np.array_equal(np.asarray(Image.open(buffer)), reader.read(index)[0])
    assert len(made) == 3


def test_a_set_without_image_data_opens_and_reads_no_image(tmp_path):
    make_hollow_set(tmp_path, 2500)
    reader = ImageReader(tmp_path)
    assert len(reader) == 2500 and reader.label(2300) == 300 and len(reader.manifest.contents.shards) == 3
    with pytest.raises(DamagedImage, match=r"shard-000002.tar: image 2499 at byte 49,900,000"):
        reader.read(2499)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no images found; expected a folder of files such as PNG or JPEG"):
        bench_data(tmp_path, (8, 12))
