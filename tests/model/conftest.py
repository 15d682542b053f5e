"""Fixtures for the tests of the network."""

import pytest
import torch

from hdit_core.model import blocks, norm
from hdit_core.model import geglu as gate
from hdit_core.model.attention import qk_norm_rope as similarity


@pytest.fixture
def without_rows(monkeypatch):
    """Let the formulas in PyTorch do what the compiled passes over rows would."""
    for module in (blocks, gate, norm, similarity):
        monkeypatch.setattr(module, "rowwise_kernels", lambda *tensors: None)


@pytest.fixture(params=[1, 2])
def threads(request):
    """Set torch's number of threads."""
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


@pytest.fixture
def watch_passes(monkeypatch):
    """Return a function that returns, for a function of `blocks`, a list in which each call says if it gave one."""

    def watch(name):
        found, real = [], getattr(blocks, name)

        def watched(*arguments):
            result = real(*arguments)
            found.append(result is not None)
            return result

        monkeypatch.setattr(blocks, name, watched)
        return found

    return watch
