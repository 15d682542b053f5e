"""The manifest of a checkpoint identifies its run, and equal checkpoints have equal manifests."""

import json

import pytest
import torch

from hdit_core.checkpoint.load import open_checkpoint
from hdit_core.checkpoint.manifest import manifest_checksum
from hdit_core.checkpoint.save import save_checkpoint
from hdit_core.checkpoint.state import State
from hdit_core.errors import CheckpointError
from hdit_core.files import digest

STATE = State(step=12, num_images=96, data_hash="d" * 64, world_size=4)


def save(run, recipe, state=STATE):
    parts = {"model": {"weight": torch.arange(15.0).reshape(3, 5)}, "optimizer": {"weight:step": torch.tensor(12.0)}}
    return save_checkpoint(run, recipe, state, parts)


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_the_manifest_names_step_images_ranks_data_recipe_and_versions(tmp_path, tiny_recipe):
    manifest = manifest_of(save(tmp_path, tiny_recipe))
    expected = {"format": 2, "step": 12, "num_images": 96, "world_size": 4, "data_hash": "d" * 64}
    assert {key: manifest[key] for key in expected} == expected
    assert manifest["recipe"] == tiny_recipe.model_dump(mode="json")
    assert manifest["versions"]["torch"] == torch.__version__ and "hdit" in manifest["versions"]


def test_the_manifest_has_size_crc_and_sha_of_every_other_file(tmp_path, tiny_recipe):
    folder = save(tmp_path, tiny_recipe)
    files = {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert files == {"model.safetensors", "optimizer.safetensors", "state.json"}
    assert manifest_of(folder)["files"] == {name: digest(folder / name).to_json() for name in files}


def test_the_recipes_hash_is_equal_only_for_equal_recipes(tmp_path, changed):
    hashes = [
        manifest_of(save(tmp_path / str(place), changed({"train.seed": seed})))["recipe_hash"]
        for place, seed in enumerate((1, 1, 2))
    ]
    assert hashes[0] == hashes[1] != hashes[2] and len(hashes[0]) == 64


def test_equal_checkpoints_have_equal_bytes_in_every_file(tmp_path, tiny_recipe):
    one, two = save(tmp_path / "one", tiny_recipe), save(tmp_path / "two", tiny_recipe)
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in two.iterdir()
    }


@pytest.mark.parametrize("key", ["step", "num_images", "world_size", "data_hash", "recipe_hash", "versions", "recipe"])
def test_a_changed_manifest_is_refused(tmp_path, tiny_recipe, key):
    folder = save(tmp_path, tiny_recipe)
    table = manifest_of(folder)
    (folder / "manifest.json").write_text(json.dumps(table | {key: 7}))
    with pytest.raises(CheckpointError, match=r"manifest.json: corrupt: its checksum does not match"):
        open_checkpoint(folder)


def test_a_recipe_of_another_version_is_not_reported_as_damaged(tmp_path, tiny_recipe):
    folder = save(tmp_path, tiny_recipe)
    table = manifest_of(folder)
    table["recipe"]["train"]["of_the_future"] = 1
    table["versions"]["hdit"] = "9.0"
    (folder / "manifest.json").write_text(json.dumps(table | {"checksum": manifest_checksum(table)}))
    where = r"step-000000012: was written by hdit 9.0, and this version refuses its recipe(.|\n)*unknown"
    with pytest.raises(CheckpointError, match=where):
        open_checkpoint(folder)


def test_a_manifest_without_files_is_refused(tmp_path, tiny_recipe):
    folder = save(tmp_path, tiny_recipe)
    table = manifest_of(folder) | {"files": {}}
    (folder / "manifest.json").write_text(json.dumps(table | {"checksum": manifest_checksum(table)}))
    with pytest.raises(CheckpointError, match=r"does not list the checkpoint's files"):
        open_checkpoint(folder)


@pytest.mark.parametrize("versions", [None, "9.0", {"torch": "2"}])
def test_a_manifest_without_the_version_that_wrote_it_is_refused(tmp_path, tiny_recipe, versions):
    folder = save(tmp_path, tiny_recipe)
    table = manifest_of(folder) | {"versions": versions}
    table["recipe"]["train"]["of_the_future"] = 1
    (folder / "manifest.json").write_text(json.dumps(table | {"checksum": manifest_checksum(table)}))
    with pytest.raises(CheckpointError, match=r"step-000000012: corrupt"):
        open_checkpoint(folder)
