"""The closed forms against torch's own count of the network that is trained."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hdit_core.flops.count import count
from hdit_core.model.attention.neighborhood import neighborhood_attention
from hdit_core.recipe.model import LevelRecipe, ModelRecipe
from tests.flops.measure import measured_macs


def network(attentions: list[str], **settings) -> ModelRecipe:
    """Return a small network whose numbers are all different, for images of 32x48."""
    levels = [
        LevelRecipe(
            depth=1 + index,
            width=32 * (1 + index),
            attention=attention,
            head_dim=16,
            d_ff=40 + 8 * index,
            kernel_size=3,
            window_size=4,
        )
        for index, attention in enumerate(attentions)
    ]
    return ModelRecipe(
        image_size=(32, 48), patch_size=(4, 2), channels=2, mapping_width=20, mapping_depth=3, levels=levels, **settings
    )


NETWORKS = {
    "one level": network(["global"]),
    "global": network(["global", "global"], num_classes=7, mapping_cond_dim=5),
    "a condition image": network(["none", "global"], condition_channels=3),
    "windows": network(["shifted-window", "global"], mapping_d_ff=11),
    "no attention": network(["none", "global", "none"]),
    "neighborhood": network(["neighborhood", "neighborhood", "global"], num_classes=3),
    "the paper's early rows": network(["global", "global"], feed_forward="gelu", positions="additive", num_classes=3),
    "layer norms": network(["none", "global"], norm="layer", skip="add"),
    "skips side by side": network(["global", "none", "global"], skip="concat"),
    "a GPU's attention": network(["neighborhood", "global"], attention_backend="natten"),
}


@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS)
def test_torch_counts_the_same_macs_in_every_part(model):
    expected = {(part.level, part.operation): part.macs for part in count(model).parts}

    assert measured_macs(model) == expected


@pytest.mark.parametrize("attentions", [["global", "none"], ["shifted-window", "global"]])
def test_torch_counts_the_same_macs_at_another_size_than_the_recipes(attentions):
    model = network(attentions)
    expected = {(part.level, part.operation): part.macs for part in count(model, (64, 32)).parts}

    assert measured_macs(model, (64, 32)) == expected != measured_macs(model)


@pytest.mark.parametrize("backend", ["native", "tiled"])
def test_every_backend_counts_the_products_of_the_windows_and_twice_as_many_for_the_gradients(backend):
    q, k, v = torch.randn(3, 2, 9, 11, 3, 8).requires_grad_()
    products = 2 * q.numel() * 5**2  # FLOPs of one product
    with FlopCounterMode(display=False) as counter:
        attended = neighborhood_attention(q, k, v, 5, backend)
    assert counter.get_total_flops() == 2 * products
    with FlopCounterMode(display=False) as counter:
        attended.sum().backward()
    assert counter.get_total_flops() == 4 * products
