"""A reference whose classes are not the network's is detected, and refused if it gives the classes of samples."""

import json
import shutil

import pytest
from PIL import Image

from hdit_core.data.image_sets.image_set import class_map_sha256
from hdit_core.data.image_sets.open_images import open_images
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.errors import UsageError
from hdit_core.evaluate.generated import check_classes


def prepared(folder, names):
    for place, name in enumerate(names):
        (folder / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (24, 16), (place * 40, 0, 9)).save(folder / "pictures" / name / "0.png")
    prepare_data(PrepareSettings(str(folder / "pictures"), folder / "data", (16, 24)))
    return folder / "data"


def test_the_provenance_of_a_data_set_has_the_hash_of_its_class_map(tmp_path):
    source = open_images(str(prepared(tmp_path, ["ape", "bee", "cat"]))).source
    assert source["class_map"] == class_map_sha256(["ape", "bee", "cat"]) and source["class_counts"] == [1, 1, 1]
    assert class_map_sha256(["bee", "ape", "cat"]) != source["class_map"]
    json.dumps(source)


def test_the_models_classes_pass_and_others_are_refused_or_reported(changed, tmp_path, caplog):
    own, other = prepared(tmp_path / "own", ["ape", "bee", "cat"]), prepared(tmp_path / "other", ["ape", "bee", "dog"])
    recipe = changed({"data.path": str(own)})
    check_classes(recipe, open_images(str(own)).source, "data")
    assert not caplog.messages
    source = open_images(str(other)).source
    with pytest.raises(
        UsageError, match=r"--labels data: .*its classes differ from those of the training data, .*own.*--classes"
    ):
        check_classes(recipe, source, "data")
    check_classes(recipe, source, "balanced")
    assert len(caplog.messages) == 1 and "its classes differ from those of" in caplog.messages[0]


def test_an_impossible_check_of_classes_is_reported(changed, tmp_path, caplog):
    own = prepared(tmp_path / "own", ["ape", "bee", "cat"])
    source = open_images(str(own)).source
    shutil.rmtree(own)
    check_classes(changed({"data.path": str(own)}), source, "data")
    assert "cannot check its classes against the training data" in caplog.messages[0]


def test_a_different_number_of_classes_is_reported(changed, tmp_path, caplog):
    source = open_images(str(prepared(tmp_path, ["ape", "bee"]))).source
    check_classes(changed({"data.path": str(tmp_path / "data")}), source, "uniform")
    assert "has 2 classes, the model 3; is it the right set?" in caplog.messages[0]
    check_classes(changed({"model.num_classes": 0}), source, "uniform")
    assert len(caplog.messages) == 1
