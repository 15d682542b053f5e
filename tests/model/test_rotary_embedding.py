"""Positions, rotary angles, and their effect on queries and keys."""

import math

import numpy as np
import pytest
import torch

from hdit_core.model.attention.qk_norm_rope import cosine_qk_norm_rope
from hdit_core.model.conditioning import FourierFeatures
from hdit_core.model.rotary_embedding import AxialRotary, coarser, grid_positions, rotary_frequencies

CPU = torch.device("cpu")
NUMBERS = np.random.default_rng(0)


def rotary(heads=2, head_dim=16):
    module = AxialRotary(heads, head_dim, exact_angles=True)
    module.frequencies.copy_(torch.from_numpy(rotary_frequencies(NUMBERS, module.frequencies.shape)))
    return module.double()


def test_the_longer_side_spans_minus_one_to_one_and_cells_are_square():
    positions = grid_positions(2, 4, CPU)
    assert positions[:, 0, 0].tolist() == [-0.25, 0.25]
    assert positions[0, :, 1].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert torch.equal(grid_positions(4, 2, CPU), positions.transpose(0, 1).flip(-1))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 24), (6, 20)])
def test_merged_tokens_are_at_the_centers_of_the_coarser_grid(height, width):
    found = coarser(grid_positions(height, width, CPU))
    torch.testing.assert_close(found, grid_positions(height // 2, width // 2, CPU), rtol=0, atol=2e-7)


def test_frequencies_run_from_pi_to_ten_pi_with_heads_interleaved():
    frequencies = rotary_frequencies(NUMBERS, (2, 8))
    assert frequencies[0, :3] == pytest.approx([math.pi, 1.33352 * math.pi, 1.77828 * math.pi], rel=1e-5)
    assert frequencies[1, 0] == pytest.approx(1.15478 * math.pi, rel=1e-5)
    assert frequencies.max() < 10 * math.pi


def test_frequencies_equal_those_of_the_references_checkpoints(reference):
    stored = reference("neighborhood")["down_levels.1.0.self_attn.pos_emb.freqs"]
    torch.testing.assert_close(torch.from_numpy(rotary_frequencies(NUMBERS, stored.shape)), stored, rtol=1e-6, atol=0)


def naive(x, scale, positions, frequencies):
    """Compute both steps feature by feature."""
    x = x * (scale[:, None] / (x.square().sum(-1, keepdim=True) + 1e-6)).sqrt()
    count = frequencies.shape[1]
    angles = torch.cat([positions[:, :, None, None, axis, None] * frequencies for axis in (0, 1)], dim=-1)
    a, b, rest = x[..., : 2 * count], x[..., 2 * count : 4 * count], x[..., 4 * count :]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin(), rest], dim=-1)


def test_queries_and_keys_are_scaled_and_rotated_by_the_formulas():
    module, positions = rotary(), grid_positions(3, 5, CPU)
    qkv, scale = torch.randn(2, 3, 5, 3, 2, 16, dtype=torch.float64), torch.tensor([10.0, 3.0], dtype=torch.float64)
    query, key, value = cosine_qk_norm_rope(qkv, scale, module(positions))
    expected = naive(qkv, scale, positions, module.frequencies)
    torch.testing.assert_close(query, expected[..., 0, :, :], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(key, expected[..., 1, :, :], rtol=1e-6, atol=1e-6)
    assert torch.equal(value, qkv[..., 2, :, :])


def test_the_analytic_gradient_equals_the_numerical_one():
    rotation = rotary(heads=2, head_dim=8)(grid_positions(1, 3, CPU))
    qkv = torch.randn(2, 1, 3, 3, 2, 8, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([10.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda qkv, scale: cosine_qk_norm_rope(qkv, scale, rotation), (qkv, scale))


def test_logits_depend_on_the_distance_only_and_are_at_most_the_scale():
    module = rotary(heads=1, head_dim=16)
    scale = torch.tensor([10.0], dtype=torch.float64)
    feature = torch.randn(1, 1, 1, 1, 1, 16, dtype=torch.float64).expand(1, 4, 8, 3, 1, 16)
    turned = cosine_qk_norm_rope(feature, scale, module(grid_positions(4, 8, CPU)))[0][0, :, :, 0]
    logits = torch.einsum("hwd,ijd->hwij", turned, turned)
    assert logits[0, 0, 1, 3].item() == pytest.approx(logits[2, 4, 3, 7].item(), rel=1e-5)
    assert logits[0, 0, 0, 0].item() == pytest.approx(10, rel=1e-5)
    assert logits.max() <= 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_negative_scale_gives_nan(dtype):
    rotation = rotary().to(dtype)(grid_positions(2, 3, CPU))
    qkv = torch.randn(1, 2, 3, 3, 2, 16, dtype=dtype)
    query, key, value = cosine_qk_norm_rope(qkv, torch.tensor([1.0, -1.0], dtype=dtype), rotation)
    assert query[..., 1, :].isnan().all() and key[..., 1, :].isnan().all()
    assert value.isfinite().all() and query[..., 0, :].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_queries_are_rotated_in_float32(dtype, without_rows):
    module, positions = rotary().float(), grid_positions(3, 5, CPU)
    qkv, scale = torch.randn(2, 3, 5, 3, 2, 16).to(dtype), torch.tensor([10.0, 3.0])
    for found, wide in zip(
        cosine_qk_norm_rope(qkv, scale, module(positions)),
        cosine_qk_norm_rope(qkv.float(), scale, module(positions)),
        strict=True,
    ):
        assert found.dtype == dtype
        assert torch.equal(found, wide.to(dtype))


@pytest.mark.parametrize("module", [AxialRotary(2, 16, exact_angles=True), FourierFeatures(1, 8)])
def test_frequencies_are_not_rounded_when_the_network_is_cast(module):
    module.frequencies.uniform_()
    before = module.frequencies.clone()
    assert torch.equal(module.bfloat16().frequencies, before)
    assert torch.equal(module.half().frequencies, before)
    assert torch.equal(module.double().frequencies, before.double())


@pytest.mark.parametrize("exact_angles", [False, True])
def test_frequencies_stored_in_16_bits_are_used_in_32(exact_angles):
    module = AxialRotary(2, 16, exact_angles)
    module.frequencies = torch.from_numpy(rotary_frequencies(NUMBERS, (2, 2))).half()
    features = FourierFeatures(1, 8)
    features.frequencies = torch.randn(4, 1).half()
    z, positions = torch.randn(3, 1), grid_positions(3, 5, CPU)
    before = (*module(positions), features(z))
    module.frequencies, features.frequencies = module.frequencies.float(), features.frequencies.float()
    for found, expected in zip(before, (*module(positions), features(z)), strict=True):
        assert torch.equal(found, expected)
