"""Global and shifted-window attention, and the choice of an operator for a layer."""

import pytest
import torch
from einops import rearrange

from hdit_core.model.attention.global_attention import global_attention
from hdit_core.model.attention.neighborhood import neighborhood_attention
from hdit_core.model.attention.shifted_window import shifted_window_attention
from hdit_core.model.hourglass import HourglassTransformer, attention_operator, initialize
from hdit_core.recipe.model import LevelRecipe
from hdit_core.recipe.read import check_recipe


def random_qkv(height, width):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, height, width, 3, 8, dtype=torch.float64, generator=generator) for _ in range(3)]


def masked(q, k, v, allowed):
    """Return plain attention with the mask `allowed` [tokens, tokens]."""
    height = q.shape[1]
    q, k, v = (rearrange(x, "b h w n d -> b n (h w) d") for x in (q, k, v))
    weights = (q @ k.mT).masked_fill(~allowed, -torch.inf).softmax(-1)
    return rearrange(weights @ v, "b n (h w) d -> b h w n d", h=height)


def shares(cells, window, shift):
    """Return which cells of an axis share a window after the roll, without those that wrapped around."""
    position = (torch.arange(cells) + shift) % cells
    region = position // window * 2 + (position < shift)
    return region[:, None] == region[None, :]


def test_global_attention_attends_to_every_token():
    q, k, v = random_qkv(4, 7)
    everything = torch.ones(28, 28, dtype=torch.bool)
    torch.testing.assert_close(global_attention(q, k, v), masked(q, k, v, everything), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 12), (4, 8), (4, 4)])
def test_tokens_attend_to_their_shifted_window_without_wrapped_tokens(height, width, shift):
    q, k, v = random_qkv(height, width)
    rows, columns = shares(height, 4, shift), shares(width, 4, shift)
    allowed = rearrange(rows[:, None, :, None] & columns[None, :, None, :], "h w i j -> (h w) (i j)")
    found = shifted_window_attention(q, k, v, window_size=4, shift=shift)
    torch.testing.assert_close(found, masked(q, k, v, allowed), rtol=1e-12, atol=1e-12)


def test_a_window_that_does_not_divide_the_grid_is_refused():
    with pytest.raises(ValueError, match="window_size = 4 does not divide the 8x10 grid"):
        shifted_window_attention(*random_qkv(8, 10), window_size=4, shift=0)


def test_a_window_mask_made_in_inference_mode_can_be_used_in_training():
    qkv = [x[:, :, :, :1] for x in random_qkv(16, 8)]
    with torch.inference_mode():
        expected = shifted_window_attention(*qkv, window_size=8, shift=4)
    qkv[0].requires_grad_()
    found = shifted_window_attention(*qkv, window_size=8, shift=4)
    found.sum().backward()
    assert torch.equal(found, expected)


FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"
OPERATORS = {
    "global": global_attention,
    "windows": lambda q, k, v: shifted_window_attention(q, k, v, window_size=4, shift=0),
    "shifted windows": lambda q, k, v: shifted_window_attention(q, k, v, window_size=4, shift=2),
}


def kernels(compute):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        compute()
    return {event.key for event in profile.key_averages() if "scaled_dot_product" in event.key}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attend", OPERATORS.values(), ids=OPERATORS)
def test_the_networks_layout_reaches_the_fast_kernel_forward_and_backward(attend, dtype):
    """A call with six axes, two of them for the windows, does not reach it."""
    packed = torch.randn(2, 8, 12, 3, 2, 64, dtype=dtype, requires_grad=True)  # as returned by the projection
    found = kernels(lambda: attend(*packed.unbind(3)).sum().backward())
    assert found == {"aten::scaled_dot_product_attention", FLASH, f"{FLASH}_backward"}

    q, k, v = (rearrange(x, "b (i h) (j w) n d -> b n i j (h w) d", h=4, w=4) for x in packed.detach().unbind(3))
    slow = kernels(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))
    assert FLASH not in slow and "aten::_scaled_dot_product_attention_math" in slow


def level(attention, **keys):
    return LevelRecipe(depth=1, width=24, head_dim=8, attention=attention, **keys)


def test_odd_layers_shift_their_windows_by_half():
    qkv = random_qkv(8, 12)
    for layer, shift in ((0, 0), (1, 2), (2, 0), (5, 2)):
        found = attention_operator(level("shifted-window", window_size=4), layer)(*qkv)
        assert torch.equal(found, shifted_window_attention(*qkv, window_size=4, shift=shift))


def test_the_recipe_selects_the_operator():
    qkv = random_qkv(9, 12)
    assert torch.equal(attention_operator(level("global"), 1)(*qkv), global_attention(*qkv))
    found = attention_operator(level("neighborhood", kernel_size=5), 1)(*qkv)
    assert torch.equal(found, neighborhood_attention(*qkv, kernel_size=5))
    assert attention_operator(level("none"), 1) is None


def test_windows_that_were_first_used_for_sampling_can_be_used_in_training(small_windows):
    network, x, sigma = small_windows
    with torch.inference_mode():
        sampled = network(x, sigma)
    trained = network(x, sigma)
    trained.sum().backward()
    assert torch.equal(sampled, trained)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_attention_is_the_same_in_window_order_and_in_grid_order(small_windows, monkeypatch):
    network, x, sigma = small_windows
    arranged = network(x, sigma)
    grads = torch.autograd.grad(arranged.square().sum(), list(network.parameters()))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # blocks then use the grid order
    in_place = network(x, sigma)
    expected = torch.autograd.grad(in_place.square().sum(), list(network.parameters()))
    torch.testing.assert_close(arranged, in_place, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grads, expected, rtol=1e-9, atol=1e-11)


@pytest.fixture
def small_windows():
    level = {"depth": 2, "width": 32, "head_dim": 16, "attention": "shifted-window", "window_size": 4}
    inner = {"depth": 1, "width": 48, "head_dim": 16, "attention": "global"}
    recipe = check_recipe(
        {
            "model": {"image_size": [16, 24], "patch_size": 2, "mapping_width": 32, "levels": [level, inner]},
            "train": {"num_images": 8, "batch_size": 8},
        },
        "windows",
    ).model
    network = HourglassTransformer(recipe)
    initialize(network, 1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=generator)
    x = torch.randn(3, 3, 16, 24, generator=generator, dtype=torch.float64)
    return network.double(), x, torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
