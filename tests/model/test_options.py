"""The options of the paper's ablations: activations, norms, positions and skip connections."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hdit_core.errors import RecipeError
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.model.norm import ADA_NORMS, AdaLayerNorm
from hdit_core.model.rotary_embedding import sine_positions
from hdit_core.model.skip_connection import SKIPS
from hdit_core.model.tokens import TokenSplit
from tests.model.small_network import awake, inputs, level, recipe

CPU = torch.device("cpu")
OPTIONS = [
    {"feed_forward": "gelu"}, {"norm": "layer"}, {"positions": "additive"}, {"skip": "add"}, {"skip": "concat"},
    {"feed_forward": "gelu", "norm": "layer", "positions": "additive", "skip": "concat"},
]  # fmt: skip
each_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))


@each_option
def test_a_network_starts_at_zero_and_every_parameter_learns(options):
    network = HourglassTransformer(recipe(num_classes=4, **options))
    initialize(network, seed=5)
    assert (network(**inputs(network)) == 0).all()
    awake(network)(**inputs(network)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@each_option
def test_an_option_changes_the_output_and_keeps_images_independent_of_the_batch(options):
    network, default = (awake(HourglassTransformer(recipe(**keys))) for keys in (options, {}))
    given = inputs(network)
    whole = network(**given)
    assert not torch.allclose(whole, default(**given))
    assert torch.equal(whole[1:], network(**{key: value[1:] for key, value in given.items()}))


def test_the_plain_feed_forward_layer_is_an_ungated_gelu():
    network = awake(HourglassTransformer(recipe(feed_forward="gelu")))
    block = network.middle[0].feed_forward
    assert block.up.weight.shape == (3 * 64, 64)
    x, cond = torch.randn(2, 4, 6, 64), torch.randn(2, 32)
    normal, _ = block.norm(x, cond)
    torch.testing.assert_close(block(x, cond), x + F.gelu(normal @ block.up.weight.T) @ block.down.weight.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_norm_subtracts_the_mean_and_adds_the_conditioned_shift(dtype):
    norm = AdaLayerNorm(6, 4).to(dtype)
    torch.nn.init.normal_(norm.modulation.weight)
    x, cond = (3 + 2 * torch.randn(2, 3, 5, 6)).to(dtype), torch.randn(2, 4).to(dtype)
    normal, same = norm(x, cond)

    high = x.double()
    centered = high - high.mean(-1, keepdim=True)
    unit = centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    scale, shift = norm.modulation(cond).double()[:, None, None].chunk(2, dim=-1)
    close = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(normal.double(), unit * (1 + scale) + shift, **close)
    assert same is x and normal.dtype == dtype


@pytest.mark.parametrize("name", ADA_NORMS)
def test_a_norm_before_training_ignores_the_conditioning_and_gives_unit_scale(name):
    norm = ADA_NORMS[name](32, 4)
    torch.nn.init.zeros_(norm.modulation.weight)
    x = torch.randn(2, 3, 5, 32) * 7
    normal, _ = norm(x, torch.randn(2, 4))
    torch.testing.assert_close(normal.square().mean(-1), torch.ones(2, 3, 5), rtol=1e-4, atol=0)


def test_sinusoidal_positions_are_those_of_dit_with_rows_first():
    found = sine_positions(3, 5, 8, CPU)
    for row in range(3):
        for column in range(5):
            waves = np.array([1.0, 0.01])  # 10000^0 and 10000^-1/2 radians a cell
            expected = [f(cells * waves) for cells in (row, column) for f in (np.sin, np.cos)]
            np.testing.assert_allclose(found[row, column], np.concatenate(expected), rtol=1e-6)


def test_with_additive_positions_nothing_is_rotated_and_tokens_differ():
    small = recipe(positions="additive", levels=(level(1, 32, "global"),), image_size=(16, 24))
    network, rotary = (
        awake(HourglassTransformer(small)),
        awake(HourglassTransformer(small.model_copy(update={"positions": "rotary"}))),
    )
    (rotation,) = network._rotations(16, 24)
    assert (rotation[0] == 1).all() and (rotation[1] == 0).all()
    assert network.state_dict().keys() == rotary.state_dict().keys()

    flat = inputs(network, batch=2) | {"x": torch.ones(2, 3, 16, 24)}
    assert network(**flat)[0, 0].unique().numel() > 100  # of a grey image, each patch gets another answer
    assert rotary(**flat)[0, 0, ::2, ::2].std() < 1e-5  # attention alone cannot tell like from like


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("add", lambda split, up, skip: up + skip),
        ("concat", lambda split, up, skip: torch.cat([up, skip], dim=-1) @ split.join.weight.T),
        ("lerp", lambda split, up, skip: 0.75 * skip + 0.25 * up),
    ],
)
def test_the_upsampled_tokens_are_combined_with_the_skip_connection_as_configured(name, expected):
    split = SKIPS[name](8, 2)
    for parameter in split.parameters():
        torch.nn.init.normal_(parameter)
    if name == "lerp":
        torch.nn.init.constant_(split.mix, 0.25)
    x, skip = torch.randn(2, 3, 5, 8), torch.randn(2, 6, 10, 2)
    torch.testing.assert_close(split(x, skip), expected(split, TokenSplit.forward(split, x), skip))


def test_additive_positions_need_widths_of_sines_and_cosines_for_two_axes(changed):
    levels = [{"depth": 1, "width": width, "attention": "none"} for width in (30, 32)]
    with pytest.raises(RecipeError, match=r"model\.levels\[0\]\.width = 30 is not a multiple of 4, which additive"):
        changed({"model.positions": "additive", "model.levels": levels})
