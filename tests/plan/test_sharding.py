"""`train.parallel = "auto"` counts the memory that a network and its optimizer take."""

import pytest
import torch

from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.plan.sharding import needs_sharding, state_bytes
from hdit_core.train.optim.optimizer import make_optimizer, optimizer_tensors

OPTIONS = (
    {},
    {"model.skip": "concat", "model.feed_forward": "gelu"},
    {"model.skip": "add", "model.norm": "layer", "model.positions": "additive"},
    {"model.num_classes": 0, "model.mapping_cond_dim": 5},
)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "plain")
def test_the_planned_state_memory_is_that_of_its_tensors(changed, options, optimizer):
    recipe = changed(options | {"train.optimizer": optimizer, "train.ema_profiles": [0.05, 0.1]})
    network = HourglassTransformer(recipe.model)
    trained = make_optimizer(network, recipe.train)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    trained.step()

    weights = sum(parameter.numel() for parameter in network.parameters())
    kept = optimizer_tensors(
        trained, network
    )  # and a count of steps for each of AdamW's, which is no number of weights
    kept_numbers = sum(tensor.numel() for name, tensor in kept.items() if not name.endswith(":step"))
    copies = 1 + 1 + 1 + 2  # weights, gradients, the average, and two profiles
    assert state_bytes(recipe) == 4 * (copies * weights + kept_numbers)


def test_a_network_that_is_too_large_with_adamw_may_fit_with_muon(changed):
    recipes = {name: changed({"train.optimizer": name}) for name in ("adamw", "muon")}
    needed = {name: state_bytes(recipe) for name, recipe in recipes.items()}
    assert needed["muon"] < needed["adamw"]
    gpu_bytes = 2 * needed["muon"]
    assert not needs_sharding(recipes["muon"], gpu_bytes) and needs_sharding(recipes["adamw"], gpu_bytes)
