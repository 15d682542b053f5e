"""Networks that take vectors and classes besides the condition image."""

import json

import numpy as np
import pytest

from hdit_core.errors import UsageError
from hdit_core.generate.condition.sources import open_vectors
from hdit_core.generate.restore.job import Vectors
from tests.generate.restore.restoring import all_pixels, job_of, restore

ROWS = np.array([[3.0, 0.0], [0.0, 3.0], [-3.0, 3.0]], np.float32)


@pytest.fixture
def both(network):
    return network(mapping_cond_dim=2, num_classes=3)


def restored(path, folder, out, rows, class_id=3, **options):
    np.save(folder.parent / "v.npy", rows)
    first = job_of(path, vectors=Vectors(lambda place: None, {}), class_id=class_id)
    vectors = Vectors(*open_vectors(first.maker.recipe, folder.parent / "v.npy"))
    return restore(job_of(path, vectors=vectors, class_id=class_id, **options), folder, out)


def test_the_ith_input_gets_the_ith_vector_and_vectors_repeat(both, pictures, tmp_path):
    inputs = pictures("in", ["a.png", "b.png", "c.png", "d.png"])
    restored(both, inputs, tmp_path / "rows", ROWS)
    restored(both, inputs, tmp_path / "one", ROWS[0], batch_size=1)
    rows, one = all_pixels(tmp_path / "rows"), all_pixels(tmp_path / "one")
    equal = {name: np.array_equal(rows[name], one[name]) for name in rows}
    assert equal == {"a.png": True, "b.png": False, "c.png": False, "d.png": True}


def test_the_class_and_the_vector_both_change_an_image(both, pictures, tmp_path):
    inputs = pictures("in", ["a.png"])
    images = []
    for place, (rows, class_id) in enumerate([(ROWS[0], 3), (ROWS[1], 3), (ROWS[0], 1)]):
        restored(both, inputs, tmp_path / f"{place}", rows, class_id)
        images.append(all_pixels(tmp_path / f"{place}")["a.png"])
    assert not np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])


def test_the_record_names_the_vectors_and_a_folder_of_other_vectors_is_refused(both, pictures, tmp_path):
    inputs = pictures("in", ["a.png"])
    restored(both, inputs, tmp_path / "out", ROWS)
    origin = json.loads((tmp_path / "out" / "samples.json").read_text())["origin"]
    assert origin["conditions"]["vectors"]["path"] == str(tmp_path / "v.npy")
    with pytest.raises(UsageError, match=r"other settings \(old -> new\): conditions\.vectors\.sha256"):
        restored(both, inputs, tmp_path / "out", ROWS * 2)


def test_an_input_whose_index_and_vector_have_changed_is_restored_again(both, pictures, tmp_path):
    inputs = pictures("in", ["b.png", "c.png"])
    restored(both, inputs, tmp_path / "out", ROWS)
    before = all_pixels(tmp_path / "out")
    pictures("in", ["a.png"], seed=4)
    restored(both, inputs, tmp_path / "out", ROWS)
    after = all_pixels(tmp_path / "out")
    assert list(after) == ["a.png", "b.png", "c.png"] and not np.array_equal(before["b.png"], after["b.png"])


def test_a_network_that_takes_vectors_needs_them(both):
    with pytest.raises(UsageError, match="the network takes vectors of 2 numbers, and none are given; see --vectors"):
        job_of(both)
