"""Small conditional networks and pictures, in the temporary folder of a test."""

import pytest

from tests.generate.conditional import write_network, write_pictures


@pytest.fixture
def network(tmp_path):
    """Return a function that writes a network with random weights: its file."""
    return lambda degrade=(), condition_channels=3, name="net", **model: write_network(
        tmp_path / f"{name}.safetensors", degrade, condition_channels, **model
    )


@pytest.fixture
def pictures(tmp_path):
    """Return a function that writes a folder of PNGs of some names and a size."""
    return lambda folder, names, size=(16, 24), seed=0: write_pictures(tmp_path / folder, names, size, seed)
