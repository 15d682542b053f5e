"""A small run for the page, trained once."""

import copy
from pathlib import Path

import pytest
import torch

from hdit_core.api import train
from hdit_core.play.models import Models
from hdit_core.recipe.read import check_recipe
from tests.conftest import TINY


@pytest.fixture(scope="package")
def run(tmp_path_factory, tiny_data) -> Path:
    """A finished run with two checkpoints, an EMA of another length, and two sample grids."""
    tables = copy.deepcopy(TINY)
    tables["data"]["path"] = str(tiny_data)
    tables["train"] |= {"num_images": 64, "sample_every_images": 32, "ema_profiles": [0.1]}
    folder = tmp_path_factory.mktemp("play") / "digits"
    train(check_recipe(tables, "tiny"), folder, device="cpu", progress=False)
    return folder


@pytest.fixture
def models(run) -> Models:
    """The models of a page for that run."""
    return Models([str(run)], None, torch.device("cpu"))


@pytest.fixture
def values() -> dict:
    """What a visitor asks for who changes little."""
    return {
        "seed": 3, "count": 3, "class": "in turn", "steps": 3, "sampler": "dpmpp_3m_sde", "schedule": "karras",
        "guidance": 1.0, "low": None, "high": None, "weights": "ema",
    }  # fmt: skip
