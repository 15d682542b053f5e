"""Folders of small pictures, feature networks that need no weights, and a stand-in for Inception's TorchScript file."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hdit_core.checkpoint import load_denoiser
from hdit_core.checkpoint.safetensors_file import write_tensors
from hdit_core.evaluate import score as score_module
from hdit_core.evaluate.extractors.extractor import Extractor
from hdit_core.evaluate.score import score
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.evaluate import EvaluateRecipe


@pytest.fixture(scope="session")
def toy_extractor():
    """An extractor whose five features are fixed random projections of the image at 8 pixels."""
    weights = torch.randn(5, 3 * 8 * 8, generator=torch.Generator().manual_seed(1)) / 100

    def network(levels):
        return levels.flatten(1) @ weights.T

    return Extractor("toy", "fd-toy", "kd-toy", 5, 8, 4, "0" * 64, network, torch.device("cpu"))


@pytest.fixture
def toy(toy_extractor, monkeypatch):
    """Return a function that scores with the toy extractor on the CPU; keywords are the settings'."""
    monkeypatch.setattr(score_module, "open_extractor", lambda *_: toy_extractor)

    def run(images, reference, **settings):
        return score(ScoreSettings(images and str(images), reference and str(reference), device="cpu", **settings))

    return run


def make_pictures(folder, count=12, seed=0, channels=3, size=(10, 12), ending=".png"):
    """Make a folder of PNGs of 10 x 12 pixels, in color or grey, from a seed, and return it."""
    folder.mkdir()
    numbers = np.random.default_rng(seed)
    for index in range(count):
        pixels = numbers.integers(0, 256, (*size, channels)).astype(np.uint8)
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(folder / f"{index:03}{ending}")
    return folder


@pytest.fixture
def picture_folder(tmp_path):
    """Return `make_pictures` for folders of a name."""
    return lambda name, *args, **settings: make_pictures(tmp_path / name, *args, **settings)


class _Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2048, 3 * 23, generator=torch.Generator().manual_seed(2)))

    def forward(self, x):
        return nn.functional.avg_pool2d(x, (299, 13)).flatten(1) @ self.weight.t()


class _StandIn(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = _Layers()

        self.output = nn.Linear(2048, 11)

    def forward(self, x, return_features: bool = False):
        x = nn.functional.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
        features = self.layers((x - 128) / 128)
        return features if return_features else self.output(features).softmax(1)


@pytest.fixture(scope="session")
def inception_stand_in(tmp_path_factory):
    """A TorchScript file that is called as Inception's is, with 2048 features of no meaning."""
    path = tmp_path_factory.mktemp("weights") / "stand-in.pt"
    torch.jit.script(_StandIn()).save(path)
    return path


@pytest.fixture
def checkpoint(tiny_recipe, tmp_path):
    """A file of random weights whose recipe has evaluation settings."""
    recipe = tiny_recipe.model_copy(update={"evaluate": EvaluateRecipe(extractor="efficientnet-lite0", num_images=7)})
    torch.manual_seed(0)
    network = HourglassTransformer(recipe.model)
    least = {name: 0.0 if "scale" in name else -0.1 for name in network.state_dict()}
    state = {name: torch.rand_like(tensor) / 5 + least[name] for name, tensor in network.state_dict().items()}
    path = tmp_path / "weights.safetensors"
    write_tensors(path, state, recipe.model_dump_json())
    return path


@pytest.fixture
def tiny_denoiser(checkpoint):
    """Its denoiser: three classes, 16 x 24 pixels."""
    return load_denoiser(checkpoint)
