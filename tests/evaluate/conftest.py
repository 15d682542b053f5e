"""Folders of small pictures, feature networks that need no weights, and a stand-in for Inception's TorchScript file."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hdit_core.evaluate.extractor import Extractor


@pytest.fixture
def toy_extractor():
    """An extractor whose five features are fixed random projections of the image at 8 pixels."""
    weights = torch.randn(5, 3 * 8 * 8, generator=torch.Generator().manual_seed(1)) / 100

    def network(levels):
        return levels.flatten(1) @ weights.T

    return Extractor("toy", "fd-toy", "kd-toy", 5, 8, 4, "0" * 64, network, torch.device("cpu"))


@pytest.fixture
def picture_folder(tmp_path):
    """Return a function that makes a folder of PNGs of 10 x 12 pixels, in colour or grey, from a seed."""

    def make(name, count=12, seed=0, channels=3, size=(10, 12), ending=".png"):
        folder = tmp_path / name
        folder.mkdir()
        numbers = np.random.default_rng(seed)
        for index in range(count):
            pixels = numbers.integers(0, 256, (*size, channels)).astype(np.uint8)
            Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(folder / f"{index:03}{ending}")
        return folder

    return make


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

    def forward(self, x, return_features: bool = False):
        return self.layers((x - 128) / 128)


@pytest.fixture(scope="session")
def inception_stand_in(tmp_path_factory):
    """A TorchScript file that is called as Inception's is, with 2048 features of no meaning."""
    path = tmp_path_factory.mktemp("weights") / "stand-in.pt"
    torch.jit.script(_StandIn()).save(path)
    return path
