"""A run and its export, for servers to offer."""

import pytest

from hdit_core.checkpoint.save import save_checkpoint
from hdit_core.checkpoint.state import State
from hdit_core.generate.export.export import ExportSettings, export
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.recipe.write import recipe_toml


@pytest.fixture
def run(tmp_path, changed):
    """A run with one checkpoint."""
    recipe = changed({"sample.steps": 2})
    folder = tmp_path / "run"
    network = HourglassTransformer(recipe.model)
    initialize(network, 0)
    folder.mkdir()
    (folder / "recipe.toml").write_text(recipe_toml(recipe))
    state = State(step=7, num_images=56, data_hash="0" * 64, init_from="")
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save_checkpoint(folder, recipe, state, {"model": tensors, "ema": tensors, "optimizer": {}})
    return folder


@pytest.fixture
def exported(run, tmp_path):
    """An exported folder, without samples."""
    export(run, tmp_path / "exported", ExportSettings(num_samples=0))
    return tmp_path / "exported"
