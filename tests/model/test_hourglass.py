"""The network as a whole: its size, initial weights, conditioning and parameter groups."""

import numpy as np
import pytest
import torch

from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.randomness import stream
from hdit_core.recipe.model import ModelRecipe
from hdit_core.train.optim.parameter_groups import parameter_groups
from tests.model.small_network import awake, inputs, level, recipe

# --- size ------------------------------------------------------------------------------------------------------------

PAPER = {  # HDiT paper, table 7
    "FFHQ-1024": (
        85_079_300,
        {
            "image_size": 1024,
            "levels": tuple(
                level(2, width, attention, head_dim=64)
                for width, attention in zip(
                    (128, 256, 384, 768, 1024), ["neighborhood"] * 3 + ["global"] * 2, strict=True
                )
            ),
        },
    ),
    "ImageNet-256": (
        557_416_522,
        {
            "image_size": 256,
            "num_classes": 1000,
            "levels": (
                level(2, 384, "neighborhood", head_dim=64),
                level(2, 768, "neighborhood", head_dim=64),
                level(16, 1536, "global", head_dim=64),
            ),
        },
    ),
    "ImageNet-128, ablation E": (
        117_003_805,
        {
            "image_size": 128,
            "num_classes": 1000,
            "levels": (level(2, 384, "neighborhood", head_dim=64), level(11, 768, "global", head_dim=64)),
            "mapping_width": 768,
            "mapping_depth": 1,
        },
    ),
}


@pytest.mark.parametrize(("expected", "keys"), PAPER.values(), ids=PAPER.keys())
def test_the_papers_networks_have_their_parameters(expected, keys):
    with torch.device("meta"):
        network = HourglassTransformer(ModelRecipe(**keys))
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


# --- first weights ---------------------------------------------------------------------------------------------------


def test_a_network_that_is_not_initialized_outputs_nan():
    network = HourglassTransformer(recipe())
    assert network(**inputs(network)).isnan().all()


def test_every_tensor_is_initialized_and_the_output_is_zero():
    network = HourglassTransformer(recipe(num_classes=4, mapping_cond_dim=3))
    initialize(network, seed=5)
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())
    assert (network(**inputs(network)) == 0).all()


def test_initial_values_depend_on_seed_and_name_only():
    with torch.device("meta"):
        network = HourglassTransformer(recipe())
    network.to_empty(device="cpu")
    initialize(network, seed=5)
    other = HourglassTransformer(recipe(levels=recipe().levels[:2], image_size=16))  # fewer modules, another order
    initialize(other, seed=5)
    again, shared = other.state_dict(), 0
    for name, tensor in network.state_dict().items():
        if name in again and tensor.shape == again[name].shape:
            shared += 1
            assert torch.equal(tensor, again[name]), name
    assert shared > 30
    initialize(other, seed=6)
    assert not torch.equal(other.patch_in.proj.weight, network.patch_in.proj.weight)


def test_initial_values_have_the_references_distributions():
    network = HourglassTransformer(recipe(num_classes=4))
    initialize(network, seed=0)
    state = network.state_dict()
    block = "down.0.1."
    zeros = [
        f"{block}attention.out",
        f"{block}feed_forward.down",
        f"{block}attention.norm.modulation",
        "patch_out.proj",
    ]
    assert all((state[f"{name}.weight"] == 0).all() for name in [*zeros, "conditioning.mapping.blocks.1.down"])
    assert (state[f"{block}attention.scale"] == 10).all()
    assert (state["out_norm.scale"] == 1).all()
    assert state["splits.0.mix"] == 0.5
    numbers = stream(0, f"init {block}attention.qkv.weight", 0).random((96, 32), np.float32)
    np.testing.assert_array_equal(state[f"{block}attention.qkv.weight"], (2 * numbers - 1) * np.float32(32**-0.5))
    for name in ("conditioning.classes.weight", "conditioning.augment_features.frequencies"):
        assert state[name].std().item() == pytest.approx(1, rel=0.2)


# --- conditioning ----------------------------------------------------------------------------------------------------


def test_every_condition_changes_the_networks_output():
    network = awake(HourglassTransformer(recipe(num_classes=4, mapping_cond_dim=3, condition_channels=2)))
    given = inputs(network)
    before = network(**given)
    for key, value in given.items():
        other = (value + 1) % 5 if key == "class_ids" else value + 0.5
        assert not torch.allclose(network(**given | {key: other}), before), key


def test_no_augmentation_is_nine_zeros():
    network = awake(HourglassTransformer(recipe()))
    given = inputs(network)
    nothing = network(**given | {"augment_cond": None})
    assert torch.equal(nothing, network(**given | {"augment_cond": torch.zeros(3, 9)}))
    assert not torch.equal(nothing, network(**given))


@pytest.mark.parametrize(
    ("keys", "given", "message"),
    [
        ({"num_classes": 3}, {}, "conditioned on class_ids; expected a tensor, found None"),
        ({"mapping_cond_dim": 2}, {}, "conditioned on mapping_cond; expected a tensor, found None"),
        (
            {},
            {"class_ids": torch.zeros(3, dtype=torch.int64)},
            "class_ids: expected None, since the network has no classes",
        ),
        (
            {},
            {"mapping_cond": torch.zeros(3, 2)},
            "mapping_cond: expected None, since the network.s mapping_cond_dim is 0",
        ),
        ({"mapping_cond_dim": 2}, {"mapping_cond": torch.zeros(3, 4)}, "expected 2 numbers per image, found 4"),
        ({"condition_channels": 2}, {}, "conditioned on images of 2 channels; expected a tensor, found None"),
        (
            {},
            {"condition": torch.zeros(3, 2, 64, 32)},
            "condition: expected None, since the network.s condition_channels is 0",
        ),
        (
            {"condition_channels": 2},
            {"condition": torch.zeros(3, 1, 64, 32)},
            r"condition: expected a tensor of shape \(3, 2, 64, 32\), found \(3, 1, 64, 32\)",
        ),
    ],
)
def test_conditioning_that_is_missing_or_unknown_is_refused(keys, given, message):
    network = awake(HourglassTransformer(recipe(**keys)))
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(3, 3, 64, 32), torch.ones(3), **given)


def test_a_condition_image_adds_input_channels_each_with_its_own_scale():
    network = awake(HourglassTransformer(recipe(condition_channels=2, condition_scale=[0.5, 3.0])))
    plain = HourglassTransformer(recipe(channels=5))
    other = network.state_dict() | {"patch_out.proj.weight": plain.patch_out.proj.weight.detach().zero_()}
    plain.load_state_dict(other)
    given = inputs(network)
    condition = given.pop("condition")
    seen = torch.cat([given["x"], condition * torch.tensor([0.5, 3.0]).view(1, 2, 1, 1)], dim=1)
    ours, theirs = [], []
    for tokens, module in ((ours, network), (theirs, plain)):
        module.out_norm.register_forward_hook(lambda *each, tokens=tokens: tokens.append(each[-1]))
    network(**given, condition=condition)
    plain(**given | {"x": seen})
    assert torch.equal(*ours, *theirs)


# --- parameter groups ------------------------------------------------------------------------------------------------


def test_every_parameter_is_in_one_group():
    network = HourglassTransformer(recipe(num_classes=4, mapping_cond_dim=3))
    groups = parameter_groups(network, lr=3e-4, weight_decay=0.01)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (3e-4, 0.01),
        (3e-4, 0.0),
        (pytest.approx(1e-4), 0.01),
        (pytest.approx(1e-4), 0.0),
    ]
    parameters = dict(network.named_parameters())
    for group in groups:
        assert all(parameters[name] is p for name, p in zip(group["names"], group["params"], strict=True))


def test_the_time_input_may_be_that_of_a_rectified_flow():
    """The same network with t = 1 / (1 + sigma) answers as with a sigma whose ln / 4 is that t."""
    plain, flow = (awake(HourglassTransformer(recipe(time=time))) for time in ("log-sigma", "t"))
    given = inputs(plain)
    expected = plain(**given | {"sigma": (4 / (1 + given["sigma"])).exp()})
    torch.testing.assert_close(flow(**given), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain(**given), expected, atol=1e-2)


def test_the_input_offset_is_added_to_image_and_condition():
    plain, offset = (
        awake(HourglassTransformer(recipe(condition_channels=2, input_offset=number))) for number in (0.0, 0.5)
    )
    given = inputs(plain)
    shifted = given | {"x": given["x"] + 0.5, "condition": given["condition"] + 0.5}
    torch.testing.assert_close(offset(**given), plain(**shifted), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain(**given), plain(**shifted), atol=1e-3)
