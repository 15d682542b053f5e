"""A small run to sweep, with the toy extractor."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.evaluate import feature_batch as pieces
from hdit_core.evaluate import score as score_module
from hdit_core.evaluate.sweep import run as sweep_module
from hdit_core.recipe.read import check_recipe
from hdit_core.train.run import train


@pytest.fixture
def small(toy_extractor, monkeypatch):
    """Chunks of 8 images, and the toy extractor."""
    monkeypatch.setattr(pieces, "IMAGES_PER_CHUNK", 8)
    monkeypatch.setattr(sweep_module, "IMAGES_PER_CHUNK", 8)
    for module in (score_module, sweep_module):
        monkeypatch.setattr(module, "open_extractor", lambda *_: toy_extractor)


MODEL = {
    "image_size": [8, 12],
    "patch_size": 2,
    "num_classes": 3,
    "mapping_width": 16,
    "mapping_depth": 1,
    "levels": [{"depth": 1, "width": 16, "head_dim": 8, "attention": "global"}],
}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A run of one step with a checkpoint and EMA snapshots, and images to compare with."""
    folder, numbers = tmp_path_factory.mktemp("sweep"), np.random.default_rng(5)
    (folder / "pictures").mkdir()
    for index in range(24):
        (folder / "pictures" / f"c{index % 3}").mkdir(exist_ok=True)
        pixels = numbers.integers(0, 256, (8, 12, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"c{index % 3}" / f"{index}.png")
    prepare_data(PrepareSettings(str(folder / "pictures"), folder / "data", (8, 12)))
    training = {"num_images": 32, "batch_size": 8, "sample_every_images": 0, "ema_profiles": [0.05, 0.1]}
    data = {"path": str(folder / "data"), "workers": 0}
    tables = {"model": MODEL, "data": data, "train": training, "sample": {"steps": 2, "sigma_max": 80.0}}
    train(check_recipe(tables, "small"), folder / "run")
    train(check_recipe(tables | {"train": training | {"lr": 0.03, "seed": 1}}, "small"), folder / "guide")
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run, to itself."""
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


@pytest.fixture
def reference(made):
    """The images to compare with."""
    return made / "data"
