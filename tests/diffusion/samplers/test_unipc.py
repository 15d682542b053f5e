"""UniPC's weights integrate polynomials exactly, and its order is one above its predictor's."""

import itertools
import math

import pytest
import torch

from hdit_core.diffusion.samplers.unipc import _update, moments, weights
from tests.diffusion.sample_with import sample

KINDS = list(itertools.product((2, 3), ("bh1", "bh2")))


def no_noise(sigma, sigma_next):
    raise AssertionError("no noise was to be asked for")


def walked(denoise, x, sigmas, order, variant):
    return sample("unipc", denoise, x, sigmas, no_noise, unipc_order=order, unipc_variant=variant)


def polynomial_model(coefficients):
    """A model whose answer is a polynomial in t = -ln sigma, whatever it is shown."""

    def denoise(x, sigma):
        t = -sigma.log().view(-1, 1, 1, 1)
        return sum(c * t**k for k, c in enumerate(coefficients)).expand_as(x)

    return denoise


@pytest.mark.parametrize("h", [1e-2, 0.3, 2.5])
def test_moments_equal_the_numerical_integrals(h):
    r = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    expected = [torch.trapezoid(h * (-h * (1 - r)).exp() * r**k, r).item() for k in (1, 2, 3)]
    assert moments(h, 3) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("places", [(-0.7, -1.9), (-0.7, 1.0), (-0.5, -1.2, 1.0)])
def test_the_weights_match_as_many_moments_as_there_are_points(places):
    found = weights(0.4, places, "bh1")
    for k, moment in enumerate(moments(0.4, len(places)), 1):
        assert sum(w * r**k for w, r in zip(found, places, strict=True)) == pytest.approx(moment, rel=1e-12)
    assert found == weights(0.4, places, "bh2")


def test_a_single_difference_is_weighted_by_half_of_b_over_its_position():
    assert weights(0.4, [-0.5], "bh1") == [-0.4]
    assert weights(0.4, [1.0], "bh2") == [pytest.approx(-math.expm1(-0.4) / 2, rel=1e-15)]


@pytest.mark.parametrize("order, variant", KINDS)
@pytest.mark.parametrize("steps", [45, 90])
def test_the_corrector_raises_the_order_by_one(mixture, noisy, even, solution, order, variant, steps):
    def error(steps):
        return (walked(mixture.denoise, noisy, even(steps), order, variant) - solution).abs().max().item()

    assert math.log2(error(steps) / error(2 * steps)) == pytest.approx(order + 1, abs=0.25)


def test_with_as_many_evaluations_order_3_is_more_accurate_than_dpmpp_2m_and_3m(mixture, noisy, even, solution):
    def error(found):
        return (found - solution).abs().max().item()

    others = [
        sample(name, mixture.denoise, noisy, even(24), no_noise, eta=0.0) for name in ("dpmpp_2m", "dpmpp_3m_sde")
    ]
    for variant in ("bh1", "bh2"):
        assert error(walked(mixture.denoise, noisy, even(24), 3, variant)) < min(map(error, others)) / 2


@pytest.mark.parametrize("others", [(5.0, 9.0), (5.0, 2.2), (5.0, 9.0, 2.2)])
def test_a_step_is_exact_for_polynomial_denoisers_of_its_order(others):
    """Of the degree that there are answers beside the start's; 2.2 is the step's own end, as the corrector has it."""
    x = torch.randn(2, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    denoise = polynomial_model([0.3, -0.2, 0.5, 0.1][: len(others) + 1])
    answers = [(level, denoise(x, torch.full((2,), level, dtype=torch.float64))) for level in (4.0, *others)]
    found = _update(x, answers[0], answers[1:], 2.2, "bh1")
    t = torch.linspace(-math.log(4.0), -math.log(2.2), 20_001, dtype=torch.float64)
    on_the_way = denoise(t.view(-1, 1, 1, 1), (-t).exp()).flatten() * (t - t[-1]).exp()
    exact = 2.2 / 4 * x + torch.trapezoid(on_the_way, t)
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-8)


def test_the_predictor_alone_of_order_2_is_dpmpp_2m(mixture, noisy, even, monkeypatch):
    from hdit_core.diffusion.samplers import unipc as module

    carried = module._update
    predicted = {}

    def without_corrector(x, start, others, sigma_next, variant):
        """Leave out corrections: steps that know the answer at their own end."""
        if any(level == sigma_next for level, _ in others):
            return predicted[sigma_next]
        predicted[sigma_next] = carried(x, start, others, sigma_next, variant)
        return predicted[sigma_next]

    monkeypatch.setattr(module, "_update", without_corrector)
    sigmas = torch.cat([even(9), torch.zeros(1).double()])
    found = walked(mixture.denoise, noisy, sigmas, 2, "bh2")
    expected = sample("dpmpp_2m", mixture.denoise, noisy, sigmas, no_noise)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order, variant", KINDS)
def test_each_step_is_one_evaluation(mixture, noisy, even, order, variant):
    levels = []
    sigmas = torch.cat([even(9), torch.zeros(1).double()])
    walked(lambda x, s: levels.append(s[0].item()) or mixture.denoise(x, s), noisy, sigmas, order, variant)
    assert levels == pytest.approx(sigmas[:-1].tolist())
