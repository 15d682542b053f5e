"""Sample i has the i-th condition of a set, which repeats from its end; unsuitable conditions are refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_core.data.degrade.degrade import degrade
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.errors import DataError, UsageError
from hdit_core.generate.condition.sources import open_conditions
from hdit_core.images import from_uint8
from hdit_core.recipe.read import check_recipe
from tests.generate.conditional import tables

SIZE = (16, 24)
DOWNSCALE = {"kind": "downscale", "factor": 2}


def recipe_of(degrade=(), condition_channels=3, **model):
    return check_recipe(tables(degrade, condition_channels, **model), "test")


@pytest.fixture
def folder(tmp_path):
    """Three pictures of 16 x 24."""
    numbers = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in "abc":
        Image.fromarray(numbers.integers(0, 256, (*SIZE, 3)).astype(np.uint8)).save(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


@pytest.fixture
def prepared(folder, tmp_path):
    prepare_data(PrepareSettings(str(folder), tmp_path / "data", SIZE))
    return tmp_path / "data"


def test_the_condition_of_an_index_depends_on_the_index_alone(folder):
    conditions = open_conditions(recipe_of(), SIZE, 0, str(folder), None)
    both = conditions([4, 0])
    assert both.vector is None and both.condition.shape == (2, 3, *SIZE)
    assert both.condition[0].equal(conditions([1]).condition[0])
    expected = from_uint8(np.asarray(Image.open(folder / "b.png"))[None].copy())[0]
    assert both.condition[0].equal(expected)
    assert (
        conditions.provenance["images"]["path"] == str(folder) and len(conditions.provenance["images"]["sha256"]) == 64
    )


def test_the_images_of_a_prepared_set_are_degraded_as_in_training(prepared):
    recipe = recipe_of([DOWNSCALE, {"kind": "noise", "std": 0.3}])
    conditions = open_conditions(recipe, SIZE, 5, str(prepared), None)
    image = from_uint8(ImageReader(prepared).read(1)[0][None].copy())[0]
    expected = degrade(image, recipe.condition.degrade, 5, 4)
    assert conditions([4]).condition[0].equal(expected)
    assert conditions.image(4).target.equal(image)
    assert not conditions([4]).condition[0].equal(conditions([1]).condition[0])


def test_a_prepared_set_without_the_needed_condition_images_is_refused(prepared):
    with pytest.raises(DataError, match=r"data: has condition images of 0 channels.*the recipe takes 3"):
        open_conditions(recipe_of(), SIZE, 0, str(prepared), None)


def test_smaller_inputs_are_resized_up_for_a_network_that_was_trained_on_downscaled_images(folder, tmp_path):
    (tmp_path / "small").mkdir()
    Image.open(folder / "a.png").resize((12, 8)).save(tmp_path / "small" / "a.png")
    recipe = recipe_of([DOWNSCALE])
    assert open_conditions(recipe, SIZE, 0, str(tmp_path / "small"), None)([0]).condition.shape == (1, 3, *SIZE)
    conditions = open_conditions(recipe, SIZE, 0, str(folder), None)
    with pytest.raises(
        DataError, match=r"a\.png: is a condition for images of 32x48, the samples are 16x24; give --size"
    ):
        conditions([0])


def test_a_file_that_is_no_image_is_refused_by_name(folder):
    (folder / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"in: b\.png: "):
        open_conditions(recipe_of(), SIZE, 0, str(folder), None)([1])


def test_vectors_come_from_an_array(tmp_path):
    rows = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    np.save(tmp_path / "v.npy", rows)
    np.save(tmp_path / "one.npy", rows[1])
    recipe = recipe_of(condition_channels=0, mapping_cond_dim=5)
    conditions = open_conditions(recipe, SIZE, 0, None, tmp_path / "v.npy")
    assert conditions([4, 0]).vector.equal(torch.from_numpy(rows[[1, 0]])) and conditions([0]).condition is None
    assert open_conditions(recipe, SIZE, 0, None, tmp_path / "one.npy")([9]).vector.equal(torch.from_numpy(rows[[1]]))


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((3, 4)), r"v\.npy: has 3x4 numbers; expected N x 5, or 5 for all images"),
        (np.zeros((0, 5)), r"v\.npy: has 0x5 numbers"),
        (np.zeros((2, 2, 5)), r"v\.npy: has 2x2x5 numbers"),
        (np.array([[0.0] * 5, [np.nan] * 5]), r"v\.npy: row 1 has NaN or infinite numbers"),
    ],
)
def test_vectors_that_the_network_does_not_take_are_refused(tmp_path, array, message):
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(DataError, match=message):
        open_conditions(recipe_of(condition_channels=0, mapping_cond_dim=5), SIZE, 0, None, tmp_path / "v.npy")


def test_a_missing_file_or_one_that_is_no_array_is_refused(tmp_path):
    recipe = recipe_of(condition_channels=0, mapping_cond_dim=5)
    (tmp_path / "v.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"v\.npy: damaged \.npy"):
        open_conditions(recipe, SIZE, 0, None, tmp_path / "v.npy")
    with pytest.raises(UsageError, match=r"--vectors .*none\.npy: no such file; expected a \.npy of N x 5 numbers"):
        open_conditions(recipe, SIZE, 0, None, tmp_path / "none.npy")


def test_conditions_for_a_network_that_takes_none_are_refused(folder, tmp_path):
    recipe = recipe_of(condition_channels=0)
    with pytest.raises(UsageError, match=r"--condition .*: the network was trained without condition images; leave it"):
        open_conditions(recipe, SIZE, 0, str(folder), None)
    with pytest.raises(UsageError, match=r"--vectors .*: the network was trained without vectors; leave it out"):
        open_conditions(recipe, SIZE, 0, None, tmp_path / "v.npy")
    assert open_conditions(recipe, SIZE, 0, None, None) is None
