"""Checkpoints that earlier versions wrote stay loadable, for ever. Never change a file in `released/`; add to it."""

import hashlib
from pathlib import Path

import pytest
import torch

from hdit_core.checkpoint import load_denoiser
from hdit_core.checkpoint.denoiser import check_fit
from hdit_core.checkpoint.load import open_checkpoint
from hdit_core.checkpoint.tensorfile import bytes_of
from hdit_core.distributed import World
from hdit_core.train.run import make_learner

RELEASED = Path(__file__).parent / "released"

# of each format: the sha256 of all its tensors, and every 577th number of what its average answers
KNOWN = {
    "format-1": (
        "d67306d3cc10bc1e2a9cda91833d8acabeeec523f7a375b4e57028239c0be5a4",
        [-0.49941548705101013, -0.24888285994529724, 0.00016457574383821338, 0.02819584682583809],
    ),
}


def hash_of(checkpoint):
    """Return one sha256 over every tensor of a checkpoint, names and types included."""
    sha256 = hashlib.sha256()
    for part in ("model", "ema", "optimizer"):
        for name, tensor in sorted(checkpoint.tensors(part).items()):
            sha256.update(f"{part} {name} {tensor.dtype} {tuple(tensor.shape)}".encode() + bytes_of(tensor))
    return sha256.hexdigest()


@pytest.mark.parametrize("name", KNOWN)
def test_every_tensor_of_a_released_checkpoint_is_read_as_it_was_written(name):
    checkpoint = open_checkpoint(RELEASED / name)
    assert (checkpoint.state.step, checkpoint.state.num_images, checkpoint.recipe.train.num_images) == (2, 16, 16)
    assert hash_of(checkpoint) == KNOWN[name][0]


@pytest.mark.parametrize("name", KNOWN)
def test_its_network_answers_as_it_did(name):
    images = torch.linspace(-1, 1, 2 * 3 * 16 * 24).reshape(2, 3, 16, 24)
    with torch.no_grad():
        found = load_denoiser(RELEASED / name)(
            images, torch.tensor([0.5, 2.0]), class_ids=torch.tensor([0, 2]), augment_cond=torch.zeros(2, 9)
        )
    assert found.flatten()[::577].tolist() == pytest.approx(KNOWN[name][1], abs=1e-5)


@pytest.mark.parametrize("name", KNOWN)
def test_training_goes_on_from_it(name):
    checkpoint = open_checkpoint(RELEASED / name)
    learner = make_learner(checkpoint.recipe, checkpoint, World(), torch.device("cpu"))
    network = learner.ema.source
    check_fit(dict(network.state_dict()), checkpoint.tensors("model"), name)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in checkpoint.tensors("model").items())
    moments = {key for parameter in network.parameters() for key in learner.optimizer.state[parameter]}
    assert {"exp_avg", "exp_avg_sq", "step"} <= moments


def test_what_is_kept_here_is_small():
    assert sum(path.stat().st_size for path in RELEASED.rglob("*") if path.is_file()) < 100_000 * len(KNOWN)
