"""What every test can use."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The tests run side by side: one thread each, and the same bits wherever they run."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reference():
    """Return a function that loads one file of `tests/reference` by its name without the ending."""
    return lambda name: load_file(REFERENCE / f"{name}.safetensors")
