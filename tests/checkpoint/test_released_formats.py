"""Checkpoints that earlier versions wrote stay loadable forever. Never change a file in `released/`; add to it.

`release.py` makes what is added.
"""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from hdit_core.checkpoint import load_denoiser
from hdit_core.checkpoint.denoiser import check_fit
from hdit_core.checkpoint.layout import checkpoint_folder
from hdit_core.checkpoint.load import open_checkpoint
from hdit_core.checkpoint.log import read_log
from hdit_core.checkpoint.manifest import FORMAT
from hdit_core.checkpoint.safetensors_file import bytes_of
from hdit_core.data.loader.build import open_reader
from hdit_core.distributed import World
from hdit_core.errors import CheckpointError
from hdit_core.recipe.data import DataRecipe
from hdit_core.train.run import train
from hdit_core.train.start.run_folder import keep_recipe
from hdit_core.train.step.build import build_learner
from tests.checkpoint.release import release

RELEASED = Path(__file__).parent / "released"
PARTS = ("model", "ema", "optimizer")  # that all have

# of each format: the sha256 of all its tensors, every 577th number of what its average answers, images of the whole run
KNOWN = {
    "format-1": (
        "d67306d3cc10bc1e2a9cda91833d8acabeeec523f7a375b4e57028239c0be5a4",
        [-0.49941548705101013, -0.24888285994529724, 0.00016457574383821338, 0.02819584682583809],
        16,
    ),
    "format-2": (
        "bb4f297d09911de0678331393ae4d43eb1a9c6ff34083a7cd4c38097cc9c31d7",
        [-0.5000829696655273, -0.24843327701091766, -0.0012679878855124116, 0.028813078999519348],
        24,
    ),
}


def hash_of(checkpoint):
    """Return one sha256 over every tensor of a checkpoint, names and types included."""
    sha256 = hashlib.sha256()
    files = {file.stem for file in checkpoint.folder.glob("*.safetensors")}
    assert files >= {*PARTS}
    for part in (*PARTS, *sorted(files - {*PARTS})):
        for name, tensor in sorted(checkpoint.tensors(part).items()):
            sha256.update(f"{part} {name} {tensor.dtype} {tuple(tensor.shape)}".encode() + bytes_of(tensor))
    return sha256.hexdigest()


@pytest.mark.parametrize("name", KNOWN)
def test_every_tensor_of_a_released_checkpoint_is_read_as_it_was_written(name):
    checkpoint = open_checkpoint(RELEASED / name)
    state, total = checkpoint.state, checkpoint.recipe.train.num_images
    assert (state.step, state.num_images, total) == (2, 16, KNOWN[name][2])
    assert hash_of(checkpoint) == KNOWN[name][0]


@pytest.mark.parametrize("name", KNOWN)
def test_the_network_of_a_released_checkpoint_has_unchanged_outputs(name):
    images = torch.linspace(-1, 1, 2 * 3 * 16 * 24).reshape(2, 3, 16, 24)
    with torch.no_grad():
        found = load_denoiser(RELEASED / name)(
            images, torch.tensor([0.5, 2.0]), class_ids=torch.tensor([0, 2]), augment_cond=torch.zeros(2, 9)
        )
    assert found.flatten()[::577].tolist() == pytest.approx(KNOWN[name][1], abs=1e-5)


@pytest.mark.parametrize("name", KNOWN)
def test_training_continues_from_a_released_checkpoint(name):
    checkpoint = open_checkpoint(RELEASED / name)
    learner = build_learner(checkpoint.recipe, checkpoint, World())
    network = learner.ema.source
    check_fit(dict(network.state_dict()), checkpoint.tensors("model"), name)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in checkpoint.tensors("model").items())
    moments = {key for parameter in network.parameters() for key in learner.optimizer.state[parameter]}
    assert {"exp_avg", "exp_avg_sq", "step"} <= moments


def test_a_run_of_format_2_resumes_to_its_end_on_its_data_set(tmp_path, notes):
    # the folder of a run as it was left, and the same command again
    released, run = RELEASED / "format-2", tmp_path / "run"
    recipe = open_checkpoint(released).recipe
    data = recipe.data.model_copy(update={"path": str(RELEASED / recipe.data.path)})
    recipe = recipe.model_copy(update={"data": data})
    shutil.copytree(released, checkpoint_folder(run, 2))
    keep_recipe(run, recipe)
    state = train(recipe, run, device="cpu")

    assert (state.step, state.num_images) == (3, 24) and f"resuming {checkpoint_folder(run, 2)}" in notes
    (line,) = read_log(run)  # of all three steps: it remembers the two before
    assert sum(bin["images"] for bin in line["loss_by_sigma"]) == 24
    before, after = (open_checkpoint(folder) for folder in (released, checkpoint_folder(run, 3)))
    for part in ("model", "ema", "optimizer", "ema-0.100"):
        old, new = before.tensors(part), after.tensors(part)
        assert old.keys() == new.keys() and any(not torch.equal(old[name], new[name]) for name in old), part
    counts = {float(value) for name, value in after.tensors("optimizer").items() if name.endswith(":step")}
    assert counts == {3.0}


def test_a_run_of_format_2_refuses_to_resume_with_other_data(tmp_path, tiny_data):
    run, recipe = tmp_path / "run", open_checkpoint(RELEASED / "format-2").recipe
    shutil.copytree(RELEASED / "format-2", checkpoint_folder(run, 2))
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": str(tiny_data)})})
    keep_recipe(run, recipe)
    with pytest.raises(CheckpointError, match=r"was trained on the data set [0-9a-f]{16}, "):
        train(recipe, run, device="cpu")


def test_the_stored_checkpoint_of_the_current_format_can_be_reproduced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"format-{FORMAT}"
    assert name in KNOWN
    release(tmp_path)
    kept, made = (open_checkpoint(folder / name) for folder in (RELEASED, tmp_path))
    assert {file.name for file in made.folder.iterdir()} == {file.name for file in kept.folder.iterdir()}
    assert made.state.data_hash == open_reader(DataRecipe(path=str(tmp_path / f"data-of-{name}"))).manifest.root


def test_the_stored_checkpoints_are_small():
    assert sum(path.stat().st_size for path in RELEASED.rglob("*") if path.is_file()) < 110_000 * len(KNOWN)
