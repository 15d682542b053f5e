"""Muon: orthogonal updates of the hidden matrices, combined with AdamW in one optimizer."""

import pytest
import torch
from torch import nn

from hdit_core.checkpoint.layout import stop_file
from hdit_core.distributed import World
from hdit_core.errors import RecipeError, StoppedEarly
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.optim.muon import MOMENTUM, ChainedOptimizer, Muon, orthogonal
from hdit_core.train.optim.optimizer import load_optimizer_tensors, make_optimizer, optimizer_tensors, set_lr
from hdit_core.train.run import train
from hdit_core.train.step.build import build_learner
from tests.train.ranks import on_ranks
from tests.train.shared_runs import LAYOUTS, learn, losses, tensors_left

MUON = {"train.optimizer": "muon"}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network(changed):
    """The tiny network with a gradient everywhere."""
    network = build_learner(changed(MUON), None, World()).ema.source
    for seed, parameter in enumerate(network.parameters()):
        parameter.grad = random(*parameter.shape, seed=seed)
    return network


# --- the update ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 24), (40, 24), (24, 40), (3, 16, 24)])
def test_an_update_has_the_singular_vectors_of_the_gradient_and_singular_values_near_one(shape):
    matrices = random(*shape).double()
    found = orthogonal(matrices)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    within = left.mT @ found @ right.mT  # diagonal if the directions are the same
    torch.testing.assert_close(within, torch.diag_embed(within.diagonal(dim1=-2, dim2=-1)), rtol=0, atol=1e-9)
    strong = within.diagonal(dim1=-2, dim2=-1)[values > 0.05 * values.amax(-1, keepdim=True)]
    assert strong.min() > 0.6 and strong.max() < 1.3


def test_the_update_does_not_depend_on_the_gradient_norm_and_is_zero_for_a_zero_gradient():
    matrix = random(16, 24)
    torch.testing.assert_close(orthogonal(1e-3 * matrix), orthogonal(matrix), rtol=1e-3, atol=1e-4)
    assert not orthogonal(torch.zeros(16, 24)).any()


def test_stacked_matrices_are_orthogonalized_separately():
    stacked = random(48, 16)
    parts = [nn.Parameter(torch.zeros(16, 16)) for _ in range(3)]
    whole = nn.Parameter(torch.zeros(48, 16))
    whole.grad = stacked
    for part, grad in zip(parts, stacked.chunk(3), strict=True):
        part.grad = grad.clone()
    Muon([{"params": [whole], "stacked": [3], "lr": 0.1, "weight_decay": 0.0}]).step()
    Muon([{"params": parts, "stacked": [1, 1, 1], "lr": 0.1, "weight_decay": 0.0}]).step()
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-5, atol=1e-7)
    assert 0.1 * 0.1 < whole.square().mean().sqrt() < 0.1 * 0.3  # as large as AdamW's usual update


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(32, 48), (64, 24)])
def test_muon_equals_torchs_within_rounding(shape):
    ours, theirs = (nn.Parameter(random(*shape, seed=9)) for _ in range(2))
    keys = {"lr": 0.02, "weight_decay": 0.1}
    mine = Muon([{"params": [ours], "stacked": [1], **keys}])
    other = torch.optim.Muon([theirs], momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw", **keys)
    before = ours.detach().clone()
    for seed in range(3):
        for optimizer, parameter in ((mine, ours), (other, theirs)):
            parameter.grad = random(*shape, seed=seed)
            optimizer.step()
    assert (ours - theirs).norm() < 0.02 * (theirs - before).norm()  # theirs is rounded to bfloat16


def test_muon_solves_an_ill_conditioned_problem():
    """The singular values of the input differ by a factor of 1,000."""
    left, right = (torch.linalg.qr(random(16, 16, seed=seed))[0] for seed in (1, 2))
    task = left @ torch.diag(torch.logspace(0, -3, 16)) @ right
    weight = nn.Parameter(torch.zeros(16, 16))
    optimizer = Muon([{"params": [weight], "stacked": [1], "lr": 0.0, "weight_decay": 0.0}])
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 300)
        weight.grad = task.T @ (task @ weight - task @ left)
        optimizer.step()
    assert (weight - left).norm() < 0.05 * left.norm()


# --- the optimizer of a run ------------------------------------------------------------------------------------------


def test_muon_updates_the_hidden_matrices_and_adamw_the_other_parameters(network, changed):
    optimizer = make_optimizer(network, changed(MUON).train)
    muon, _ = optimizer.optimizers
    found = {
        name: stacked
        for group in muon.param_groups
        for name, stacked in zip(group["names"], group["stacked"], strict=True)
    }
    blocks = ("down.0.0", "middle.0", "up.0.0")
    parts = {"attention.qkv": 3, "attention.out": 1, "feed_forward.up": 2, "feed_forward.down": 1}
    expected = {f"{block}.{part}.weight": number for block in blocks for part, number in parts.items()}
    assert found == expected | {"merges.0.proj.weight": 1, "splits.0.proj.weight": 1}
    names = [name for group in optimizer.param_groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (5e-4, 0.01), (5e-4, 0.01), (5e-4, 0.0), (pytest.approx(5e-4 / 3), 0.01), (pytest.approx(5e-4 / 3), 0.0),
    ]  # fmt: skip


def test_the_hidden_matrices_have_the_learning_rate_of_muon_and_the_others_that_of_adamw(network, changed):
    muon, adamw = make_optimizer(network, changed(MUON | {"train.lr": 3e-4, "train.muon_lr": 2e-3}).train).optimizers
    set_lr(ChainedOptimizer(muon, adamw), 0.5)
    assert {group["lr"] for group in muon.param_groups} == {1e-3}
    assert {group["lr"] for group in adamw.param_groups} == {1.5e-4, 1.5e-4 / 3}


def test_a_learning_rate_of_muon_without_muon_is_refused(changed):
    with pytest.raises(RecipeError, match="has no effect with optimizer = 'adamw'"):
        changed({"train.muon_lr": 1e-3})


def test_both_optimizers_use_the_set_learning_rate_and_matrices_decay(network, changed):
    optimizer = make_optimizer(network, changed(MUON | {"train.weight_decay": 0.5}).train)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    set_lr(optimizer, 0.0)
    optimizer.step()
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
    set_lr(optimizer, 1.0)
    optimizer.step()
    moved = {name: parameter.detach() - before[name] for name, parameter in network.named_parameters()}
    assert all(change.any() for change in moved.values())
    rates = {name: change.square().mean().sqrt().item() / 5e-4 for name, change in moved.items()}
    assert 0.1 < rates["middle.0.attention.out.weight"] < 0.3
    assert rates["patch_in.proj.weight"] == pytest.approx(1, abs=0.3)  # AdamW's, of a gradient that came twice

    qkv = network.middle[0].attention.qkv.weight
    qkv.grad, start = torch.zeros_like(qkv), qkv.detach().clone()
    optimizer.state[qkv]["momentum"].zero_()
    optimizer.step()
    torch.testing.assert_close(qkv.detach(), start * (1 - 5e-4 * 0.5))


def test_the_saved_state_of_muon_is_complete(network, changed):
    recipe = changed(MUON).train
    one = make_optimizer(network, recipe)
    one.step()
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(one, network).items()}
    states = {name.rpartition(":")[2] for name in tensors}
    assert states == {"momentum", "step", "exp_avg", "exp_avg_sq"}
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    one.step()
    after = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    network.load_state_dict(weights)
    other = make_optimizer(network, recipe)
    assert isinstance(other, ChainedOptimizer)
    load_optimizer_tensors(other, network, tensors)
    other.step()
    assert all(torch.equal(tensor, after[name]) for name, tensor in network.state_dict().items())


@pytest.fixture
def plain(trained):
    """Return a function: the tiny recipe with Muon, without dropout, which differs between ranks."""
    levels = [level | {"dropout": 0.0} for level in trained({}).model_dump(mode="json")["model"]["levels"]]
    return lambda more: trained({"model.levels": levels, "train.log_every_images": 8} | MUON | more)


def test_a_stopped_and_resumed_run_is_bit_identical_to_an_uninterrupted_one(tmp_path, plain):
    recipe = plain({"train.checkpoint_every_images": 1_000})
    train(recipe, tmp_path / "unbroken")

    def stop(progress):
        if progress.step == 5:
            stop_file(tmp_path / "run").touch()

    with pytest.raises(StoppedEarly):
        train(recipe, tmp_path / "run", callbacks=Callbacks(on_progress=stop))
    train(recipe, tmp_path / "run")
    ours, theirs = tensors_left(tmp_path / "run"), tensors_left(tmp_path / "unbroken")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert sum(name.endswith(":momentum") for name in ours) == 14


def test_ranks_learn_the_same_however_the_weights_are_sharded(tmp_path, plain):
    left = {}
    for name in ("one", "ddp-2", "fsdp-2"):
        on_ranks(LAYOUTS[name][0], learn, plain(LAYOUTS[name][1] | {"train.num_images": 48}), tmp_path / name)
        left[name] = tensors_left(tmp_path / name)
    assert len(losses(tmp_path / "one")) == 6
    for layout in ("ddp-2", "fsdp-2"):
        assert losses(tmp_path / layout) == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
        for name, tensor in left["one"].items():
            found = left[layout][name]
            assert found.shape == tensor.shape
            if name.startswith("model"):
                torch.testing.assert_close(found, tensor, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: name + text)
