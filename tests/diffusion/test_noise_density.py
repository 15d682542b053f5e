import math

import pytest
import torch

from hdit_core.diffusion.noise_density import DENSITIES, stratified, training_sigmas
from hdit_core.recipe.diffusion import DensityRecipe, DiffusionRecipe

SIZE = (16, 24)
# The reference's lognormal takes loc and scale as float32 numbers.
FLOAT32_1_2 = torch.tensor(1.2).item()


def sigmas(u, image_size=SIZE, sigma_data=0.5, **density):
    recipe = DiffusionRecipe(sigma_data=sigma_data, density=DensityRecipe(**density))
    return training_sigmas(recipe, image_size, torch.as_tensor(u, dtype=torch.float64), dtype=torch.float64)


@pytest.mark.parametrize(
    "key, image_size, density",
    [
        ("cosine_interpolated.image_d256.low32.high256.sigma_data0.5.min0.001.max1000", (192, 256), {}),
        ("cosine_interpolated.image_d1024.low32.high1024.sigma_data0.5.min0.001.max1000", (1024, 512), {}),
        ("vdiffusion.sigma_data0.5.min0.001.max1000", SIZE, {"type": "cosine"}),
        ("lognormal.loc-1.2.scale1.2", SIZE, {"type": "lognormal", "loc": -FLOAT32_1_2, "scale": FLOAT32_1_2}),
        (
            "loglogistic.loc-0.5.scale0.5.min0.01.max80",
            SIZE,
            {"type": "loglogistic", "loc": -0.5, "scale": 0.5, "sigma_min": 0.01, "sigma_max": 80.0},
        ),
        ("loguniform.min0.01.max160", SIZE, {"type": "loguniform", "sigma_min": 0.01, "sigma_max": 160.0}),
    ],
)
def test_densities_equal_the_references(reference, key, image_size, density):
    numbers = reference("diffusion")
    found = sigmas(numbers["density.u"], image_size, **density)
    torch.testing.assert_close(found, numbers[f"density.{key}"], rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "size, golden",
    [
        (32, [999.92, 3.1518, 1.2075, 0.50075, 0.20791, 0.080089, 0.001]),
        (128, [999.97, 10.88, 3.4046, 1.0, 0.29372, 0.09191, 0.001]),
        (256, [999.99, 20.092, 5.7069, 1.4126, 0.34913, 0.09848, 0.001]),
        (1024, [1000, 65.907, 15.839, 2.8081, 0.49264, 0.11302, 0.001]),
    ],
)
def test_the_interpolated_cosine_is_the_one_printed_for_the_reference(size, golden):
    found = sigmas([0, 0.1, 0.25, 0.5, 0.75, 0.9, 1], (size // 2, size))
    # Printed with five digits, of which the reference's float32 loses some beside u = 0.
    torch.testing.assert_close(found, torch.tensor(golden, dtype=torch.float64), rtol=1e-4, atol=0)


def test_the_interpolated_cosine_counts_the_longer_side():
    u = torch.linspace(0.01, 0.99, 9)
    assert torch.equal(sigmas(u, (64, 128)), sigmas(u, (128, 64)))
    assert torch.equal(sigmas(u, (64, 128)), sigmas(u, (128, 128)))
    assert (sigmas(u, (64, 256)) > sigmas(u, (64, 128))).all()


def test_with_equal_reference_sizes_the_density_is_the_shifted_cosine():
    u = torch.linspace(0.01, 0.99, 9)
    interpolated = sigmas(u, (64, 64), noise_size_low=64, noise_size_high=64)
    torch.testing.assert_close(interpolated, sigmas(1 - u, type="cosine"), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", DENSITIES)
def test_every_density_is_monotone_positive_and_finite_even_at_the_ends(name):
    found = sigmas([0.0, 1e-12, 0.1, 0.4, 0.5, 0.6, 0.9, 1 - 1e-12, 1.0], type=name)
    assert found.float().isfinite().all() and (found.float() > 0).all()
    steps = found.diff() * (-1 if name == "cosine-interpolated" else 1)
    assert (steps >= 0).all() and (steps[1:-1] > 0).all()


@pytest.mark.parametrize("name", ["cosine-interpolated", "cosine", "loguniform", "loglogistic"])
def test_bounded_densities_reach_their_bounds_and_no_further(name):
    ends = sigmas([0.0, 1.0], type=name, sigma_min=0.02, sigma_max=50.0).sort().values
    # Interpolated cosines of two sizes agree at their common bounds.
    torch.testing.assert_close(ends, torch.tensor([0.02, 50.0]).double(), rtol=1e-6, atol=0)


def test_the_split_lognormal_is_two_half_normals_that_meet_at_loc():
    low, high, loc = 0.5, 1.5, -0.7
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    logs = sigmas(u, type="split-lognormal", loc=loc, scale_low=low, scale_high=high).log()
    below, above = logs[logs < loc], logs[logs >= loc]
    assert len(below) / len(logs) == pytest.approx(low / (low + high), abs=1e-4)
    # The mean of a half normal is sqrt(2 / pi) of its scale, its second moment the scale's square.
    assert (loc - below).mean().item() == pytest.approx(low * math.sqrt(2 / math.pi), rel=1e-3)
    assert (above - loc).mean().item() == pytest.approx(high * math.sqrt(2 / math.pi), rel=1e-3)
    assert (above - loc).square().mean().sqrt().item() == pytest.approx(high, rel=1e-3)


def test_an_even_split_lognormal_is_the_lognormal():
    u = torch.linspace(0, 1, 21)
    even = sigmas(u, type="split-lognormal", loc=-1.0, scale_low=0.8, scale_high=0.8)
    torch.testing.assert_close(even, sigmas(u, type="lognormal", loc=-1.0, scale=0.8), rtol=1e-6, atol=0)


def test_the_loglogistic_is_centered_on_sigma_data_by_default():
    assert sigmas([0.5], sigma_data=0.3, type="loglogistic").item() == pytest.approx(0.3)


def test_noise_levels_are_float32_whatever_the_uniform_numbers_are():
    u = torch.tensor([0.25, 0.75])
    found = training_sigmas(DiffusionRecipe(), SIZE, u)
    assert found.dtype == training_sigmas(DiffusionRecipe(), SIZE, u.double()).dtype == torch.float32
    assert torch.equal(found, training_sigmas(DiffusionRecipe(), SIZE, u.double()))


def test_every_position_of_the_global_batch_has_its_own_stratum():
    place = torch.tensor([5, 0, 3, 1, 4, 2])
    u = stratified(place, 6, torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    assert torch.equal((u * 6).floor().long(), place)
    assert torch.equal(stratified(place[2:4], 6, (u * 6 - place)[2:4]), stratified(place, 6, u * 6 - place)[2:4])


@pytest.mark.parametrize("name", DENSITIES)
def test_stratified_numbers_give_stratified_noise_levels(name):
    borders = sigmas(torch.arange(9) / 8, type=name)
    uniform = torch.rand(8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = sigmas(stratified(torch.arange(8), 8, uniform), type=name)
    low, high = torch.minimum(borders[1:], borders[:-1]), torch.maximum(borders[1:], borders[:-1])
    assert ((low <= found) & (found <= high)).all()
