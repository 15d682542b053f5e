"""A reference whose classes are not the network's is noticed, and refused where they are drawn from it."""

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


def test_a_data_sets_passport_has_the_hash_of_its_class_map(tmp_path):
    source = open_images(str(prepared(tmp_path, ["ape", "bee", "cat"]))).source
    assert source["class_map"] == class_map_sha256(["ape", "bee", "cat"]) and source["class_counts"] == [1, 1, 1]
    assert class_map_sha256(["bee", "ape", "cat"]) != source["class_map"]
    json.dumps(source)


def test_the_networks_own_classes_pass_and_others_are_refused_or_told_of(changed, tmp_path):
    own, other = prepared(tmp_path / "own", ["ape", "bee", "cat"]), prepared(tmp_path / "other", ["ape", "bee", "dog"])
    recipe, said = changed({"data.path": str(own)}), []
    check_classes(recipe, open_images(str(own)).source, "data", said.append)
    assert said == []
    source = open_images(str(other)).source
    with pytest.raises(UsageError, match=r"--labels data: .*its classes are not those of .*own.*--classes"):
        check_classes(recipe, source, "data", said.append)
    check_classes(recipe, source, "balanced", said.append)
    assert len(said) == 1 and "its classes are not those of" in said[0]


def test_what_cannot_be_checked_is_said(changed, tmp_path):
    own, said = prepared(tmp_path / "own", ["ape", "bee", "cat"]), []
    source = open_images(str(own)).source
    shutil.rmtree(own)
    check_classes(changed({"data.path": str(own)}), source, "data", said.append)
    assert "is taken on trust" in said[0]


def test_another_number_of_classes_is_told_of(changed, tmp_path):
    source, said = open_images(str(prepared(tmp_path, ["ape", "bee"]))).source, []
    check_classes(changed({"data.path": str(tmp_path / "data")}), source, "uniform", said.append)
    assert "has 2 classes, the network 3: they are not the same images" in said[0]
    check_classes(changed({"model.num_classes": 0}), source, "uniform", said.append)
    assert len(said) == 1
