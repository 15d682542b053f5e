"""One update of the weights follows the recipe, compared with a calculation by hand."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from hdit_core.data.loader.batch import load_batches
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.diffusion.loss import denoising_loss
from hdit_core.diffusion.noise_density import training_sigmas
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.distributed import World
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.train.optim.parameter_groups import parameter_groups
from hdit_core.train.step import train_step as step_module
from hdit_core.train.step.batch_plan import steps
from hdit_core.train.step.build import build_learner


@pytest.fixture
def plain(trained):
    """Return a function: the tiny recipe without dropout, which differs between micro-batches."""
    levels = [level | {"dropout": 0.0} for level in trained({}).model_dump(mode="json")["model"]["levels"]]
    return lambda values: trained({"model.levels": levels} | values)


def batches_of(recipe, pieces):
    reader, train = ImageReader(recipe.data.path), recipe.train
    options = {"augment_prob": recipe.data.augment_prob, "class_dropout": train.class_dropout}
    return load_batches(reader, pieces, seed=train.seed, workers=0, num_classes=recipe.model.num_classes, **options)


def stir(network):
    """Fill what begins at zero, so that every input shows in the loss."""
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.3, generator=numbers)


def test_a_step_is_adamw_on_the_clipped_gradient_of_the_mean_loss_at_stratified_noise_levels(plain):
    values = {"train.micro_batch_size": 3, "train.warmup_images": 32, "train.grad_clip": 0.01, "train.seed": 4}
    recipe = plain(values | {"data.augment_prob": 0.5, "train.betas": [0.8, 0.9], "train.lr": 0.01})
    learner = build_learner(recipe, None, World())
    stir(learner.denoiser.network)
    plan = list(steps(recipe.train, 0, 0))[:2]
    ours = batches_of(recipe, [piece for step in plan for piece in learner.micro_batches(step)])

    network = HourglassTransformer(recipe.model)
    initialize(network, 4)
    stir(network)
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(parameter_groups(network, 0.01, recipe.train.weight_decay), betas=(0.8, 0.9))
    for step, batch in zip(plan, batches_of(recipe, [range(8), range(8, 16)]), strict=True):
        found, batch = learner.train_step(step, ours), batch.to("cpu")
        u = (torch.arange(8) + batch.uniform) / 8
        sigma = training_sigmas(recipe.diffusion, recipe.model.image_size, u)
        cond = {"class_ids": batch.class_ids, "augment_cond": batch.augment_cond}
        optimizer.zero_grad()
        loss = denoising_loss(Denoiser(network, recipe), batch.images, batch.noise, sigma, **cond).mean()
        loss.backward()
        norm = clip_grad_norm_(network.parameters(), 0.01)
        assert norm > 0.01 and found.grad_norm == pytest.approx(norm.item(), rel=1e-4)
        assert found.loss == pytest.approx(loss.item(), rel=1e-5)
        for group, lr in zip(optimizer.param_groups, (0.01, 0.01, 0.01 / 3, 0.01 / 3), strict=True):
            group["lr"] = lr * (step.number + 1) / 4
        optimizer.step()
        share = 2**-0.75 if step.number else 1.0  # of the new weights in their average
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
                mean += share * (weight - mean)
    for found, expected in ((learner.denoiser.network, network), (learner.ema.network, average)):
        for (name, tensor), wanted in zip(found.named_parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(tensor, wanted, rtol=1e-3, atol=2e-4, msg=lambda text, name=name: name + text)


@pytest.fixture
def watched(monkeypatch):
    """Return a list of what held while each loss was computed: the seed of dropout, and whether products are 16-bit."""
    seen = []

    def watch(*arguments, **conditioning):
        seen.append((torch.initial_seed(), torch.is_autocast_enabled("cpu")))
        return denoising_loss(*arguments, **conditioning)

    monkeypatch.setattr(step_module, "denoising_loss", watch)
    return seen


def test_dropout_differs_by_step_micro_batch_and_rank_and_is_reproducible(trained, watched):
    recipe = trained({"train.micro_batch_size": 3})
    learner = build_learner(recipe, None, World())
    for rank in (0, 1, 0):
        one_of_two = replace(learner, world=World(rank, 2))
        for step in list(steps(recipe.train, 0, 0))[:2]:
            one_of_two._backward(step, batches_of(recipe, one_of_two.micro_batches(step)))
    seeds = [seed for seed, _ in watched]
    assert len(set(seeds[:8])) == 8 and seeds[8:] == seeds[:4]


@pytest.mark.parametrize(("precision", "short"), [("auto", False), ("float32", False), ("bfloat16", True)])
def test_matrix_products_use_the_precision_of_the_recipe(plain, watched, precision, short):
    recipe = plain({"train.precision": precision})
    learner = build_learner(recipe, None, World())
    step = next(steps(recipe.train, 0, 0))
    learner.train_step(step, batches_of(recipe, learner.micro_batches(step)))
    assert [autocast for _, autocast in watched] == [short]


def test_the_ema_is_in_eval_mode_and_needs_no_gradients(trained):
    learner = build_learner(trained({"train.compile": True}), None, World())
    assert learner.denoiser.network.training and not learner.ema.network.training
    assert not any(parameter.requires_grad for parameter in learner.ema.network.parameters())


@pytest.mark.parametrize("wanted", [False, True, 1])
def test_activation_checkpointing_follows_the_recipe(trained, wanted):
    learner = build_learner(trained({"train.activation_checkpointing": wanted}), None, World())
    assert learner.denoiser.network.activation_checkpointing is wanted
