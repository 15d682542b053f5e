"""Properties of every network: sizes, dropout, batches, threads, dtypes."""

from itertools import pairwise

import pytest
import torch

from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.model.linear import MIN_ROWS, Linear
from tests.model.small_network import awake, inputs, level, recipe


def test_other_image_sizes_are_accepted_if_they_fit():
    network = awake(HourglassTransformer(recipe()))
    assert network(**inputs(network, image_size=(32, 96))).shape == (3, 3, 32, 96)
    with pytest.raises(ValueError, match="images of 32x40 do not fit the network: image_size: width 40"):
        network(**inputs(network, image_size=(32, 40)))


def test_patches_may_be_oblong_and_images_of_one_channel():
    network = awake(HourglassTransformer(recipe(patch_size=(4, 2), channels=1)))
    assert network(**inputs(network)).shape == (3, 1, 64, 32)


def test_a_single_level_has_no_merges():
    network = awake(HourglassTransformer(recipe(levels=(level(2, 32, "global"),))))
    assert network(**inputs(network)).isfinite().all()
    assert not [name for name, _ in network.named_parameters() if "merges" in name or "splits" in name]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_dropout_of_each_level_acts_in_training_only(place):
    levels = list(recipe().levels)
    levels[place] = levels[place].model_copy(update={"dropout": 0.5})
    network = awake(HourglassTransformer(recipe(levels=tuple(levels))))
    given = inputs(network)
    assert not torch.equal(network.train()(**given), network(**given))
    assert torch.equal(network.eval()(**given), network(**given))


def test_dropout_of_the_mapping_network_acts_in_training_only():
    network = awake(HourglassTransformer(recipe(mapping_dropout=0.5)))
    given = inputs(network)
    assert not torch.equal(network.train()(**given), network(**given))
    assert torch.equal(network.eval()(**given), network(**given))


def gradients(network, given):
    network.zero_grad()
    network(**given).square().mean().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("levels", [1, 3, True])
def test_activation_checkpointing_changes_no_gradient_even_with_dropout(levels):
    dropping = tuple(one.model_copy(update={"dropout": 0.25}) for one in recipe().levels)
    network = awake(HourglassTransformer(recipe(levels=dropping)))
    given = inputs(network)
    torch.manual_seed(1)
    expected = gradients(network, given)
    network.activation_checkpointing = levels
    torch.manual_seed(1)
    for name, grad in gradients(network, given).items():
        assert torch.equal(grad, expected[name]), name


def kept_bytes(network, given):
    """Return how much a forward pass keeps for the backward pass: each tensor counted once, and no parameter."""
    kept, there = {}, {parameter.data_ptr() for parameter in network.parameters()}

    def keep(x):
        if x.untyped_storage().data_ptr() not in there:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = network(**given)
    assert out.requires_grad
    return sum(kept.values())


def test_each_level_of_activation_checkpointing_saves_memory_the_outermost_the_most():
    network = awake(HourglassTransformer(recipe()))
    given = inputs(network)
    kept = []
    for network.activation_checkpointing in (False, 1, 2, 3, 4):
        kept.append(kept_bytes(network, given))
    savings = [before - after for before, after in pairwise(kept)]
    assert all(saving > 0 for saving in savings) and max(savings) == savings[0]
    assert kept[-1] < kept[0] / 3
    network.activation_checkpointing = True
    assert kept_bytes(network, given) == kept[-1]


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_activation_memory_is_linear_in_pixels(activation_checkpointing):
    levels = (level(2, 16, "neighborhood", kernel_size=3), level(2, 16, "shifted-window", window_size=4))
    network = awake(HourglassTransformer(recipe(image_size=64, levels=levels)))
    network.activation_checkpointing = activation_checkpointing
    kept = [kept_bytes(network, inputs(network, batch=2, image_size=(size, size))) for size in (64, 128, 256)]
    assert [after / before for before, after in pairwise(kept)] == pytest.approx([4, 4], rel=0.05)


BATCHED = {
    "digits": {
        "image_size": 32,
        "channels": 1,
        "patch_size": (4, 4),
        "num_classes": 10,
        "levels": (level(1, 128, "neighborhood", head_dim=64, kernel_size=7), level(1, 256, "global", head_dim=64)),
    },
    "an innermost grid of one token": {"image_size": 16},
    "oblong, with a vector and a condition image": {"mapping_cond_dim": 5, "condition_channels": 2},
}
BATCHED["an innermost grid of one token"]["levels"] = (
    level(1, 32, "neighborhood", kernel_size=3),
    level(1, 48, "shifted-window", window_size=2),
    level(1, 48, "none"),
    level(1, 64, "global"),
)


@torch.no_grad()
@pytest.mark.parametrize("keys", BATCHED.values(), ids=BATCHED.keys())
def test_an_images_result_is_bit_identical_in_any_batch(keys):
    network = awake(HourglassTransformer(recipe(**keys))).eval()
    given = inputs(network, batch=16)
    whole = network(**given)
    for batch in (1, 2, 3, 7):
        for first in range(0, 16, batch):
            part = slice(first, first + batch)
            assert torch.equal(network(**{key: value[part] for key, value in given.items()}), whole[part])


@torch.no_grad()
def test_an_images_result_is_bit_identical_on_any_number_of_threads():
    network = awake(HourglassTransformer(recipe(**BATCHED["digits"]))).eval()
    given = inputs(network, batch=3)
    expected = network(**given)
    torch.set_num_threads(2)
    try:
        assert torch.equal(network(**given), expected)
    finally:
        torch.set_num_threads(1)


def test_rows_of_padding_do_not_affect_results_or_gradients():
    linear = Linear(6, 4).double()
    torch.nn.init.normal_(linear.weight)
    for rows in (1, 5, MIN_ROWS, 40):
        x = torch.randn(rows, 1, 6, dtype=torch.float64, requires_grad=True)
        weight = linear.weight.detach().clone().requires_grad_()
        expected = torch.autograd.grad((x @ weight.T).square().sum(), (x, weight))
        found = torch.autograd.grad(linear(x).square().sum(), (x, linear.weight))
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", ["cast", "autocast"])
def test_bfloat16_stays_close_to_float32(how):
    network = awake(HourglassTransformer(recipe(num_classes=4)))
    given = inputs(network)
    expected, exact = network(**given), gradients(network, given)
    if how == "cast":
        network.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        found = network(**given)
        rounded = gradients(network, given)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.1 * expected.norm()
    for name, grad in rounded.items():
        cosine = torch.cosine_similarity(grad.float().flatten(), exact[name].flatten(), dim=0)
        assert cosine > 0.9, name


def test_angles_are_cached_by_size_and_recomputed_when_their_inputs_change():
    network = awake(HourglassTransformer(recipe())).eval()
    first = network._rotations(64, 32)
    assert network._rotations(64, 32) is first
    assert network._rotations(32, 64) is not first
    first = network._rotations(64, 32)
    network.load_state_dict(HourglassTransformer(recipe()).state_dict() | {"rotary.0.frequencies": torch.ones(2, 2)})
    changed = network._rotations(64, 32)
    assert not torch.equal(changed[0][0], first[0][0])
    assert network.double()._rotations(64, 32)[0][0].dtype == torch.float64


def test_angles_computed_while_sampling_can_be_used_in_training():
    network = awake(HourglassTransformer(recipe()))
    given = inputs(network)
    with torch.inference_mode():
        network(**given)
    assert gradients(network, given)["patch_in.proj.weight"].isfinite().all()


def test_norms_angles_and_attention_logits_stay_in_float32_under_autocast():
    network = awake(HourglassTransformer(recipe()))
    kept = []
    with torch.autocast("cpu", torch.bfloat16):
        rotations = network._rotations(64, 32)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
            network(**inputs(network))
    assert {part.dtype for rotation in rotations if rotation for part in rotation} == {torch.float32}
    narrow = [x for x in kept if x.dtype == torch.bfloat16]
    inverses = [x for x in kept if x.shape[-1] == 1 and x.ndim in (4, 6)]  # of norms, and of queries and keys
    assert narrow and inverses and {x.dtype for x in inverses} == {torch.float32}
