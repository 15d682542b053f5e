import math

import pytest
import torch

from hdit_core.diffusion.runge_kutta import ERRORS, STAGES, TIMES, integrate
from hdit_core.errors import NumericalError


def largest(errors):
    return errors.abs().amax(1)


def solve(slope, y, end, tolerance=1e-9):
    return integrate(slope, y, 0.0, end, rtol=tolerance, atol=tolerance, norm=largest)


def test_the_tableau_satisfies_the_order_conditions():
    for time, weights in zip(TIMES, STAGES, strict=True):
        assert sum(weights) == pytest.approx(time, abs=1e-14)
    for order in range(5):
        fifth = sum(weight * time**order for weight, time in zip(STAGES[-1], TIMES, strict=False))
        assert fifth == pytest.approx(1 / (order + 1), abs=1e-14)
    for order in range(4):
        assert sum(error * time**order for error, time in zip(ERRORS, TIMES, strict=True)) == pytest.approx(
            0, abs=1e-14
        )
    assert abs(sum(error * time**4 for error, time in zip(ERRORS, TIMES, strict=True))) > 1e-4


def test_growth_rotation_and_time_are_solved_to_the_tolerance():
    start = torch.tensor([[1.0, 0.0, 2.0], [0.5, -1.0, 0.1]], dtype=torch.float64)

    def slope(t, y):
        return torch.stack([-y[:, 1], y[:, 0], y[:, 2] + t], dim=1)

    found = solve(slope, start, 3.0)
    c, s = math.cos(3), math.sin(3)
    turned = torch.stack([c * start[:, 0] - s * start[:, 1], s * start[:, 0] + c * start[:, 1]], dim=1)
    grown = (start[:, 2] + 1) * math.exp(3) - 3 - 1
    torch.testing.assert_close(found, torch.cat([turned, grown[:, None]], dim=1), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_the_error_follows_the_tolerance(tolerance):
    found = solve(lambda t, y: -10 * (y - t.cos()[:, None]), torch.zeros(2, 1).double(), 4.0, tolerance)
    exact = (100 * math.cos(4) + 10 * math.sin(4) - 100 * math.exp(-40)) / 101
    assert abs(found[0, 0].item() - exact) < 10 * tolerance


def test_each_row_is_solved_independently_of_the_others():
    rates = torch.tensor([[0.1], [40.0]], dtype=torch.float64)
    both = solve(lambda t, y: -rates * y, torch.ones(2, 1).double(), 2.0)
    easy = solve(lambda t, y: -rates[:1] * y, torch.ones(1, 1).double(), 2.0)
    assert torch.equal(both[:1], easy)
    torch.testing.assert_close(both, (-2 * rates).exp(), rtol=1e-6, atol=1e-8)


def test_rejected_steps_are_repeated_from_their_start():
    centres = torch.tensor([[1.0], [1.3]], dtype=torch.float64)

    def bump(t, y):
        return (-(((t[:, None] - centres) / 0.2) ** 2)).exp()

    found = solve(bump, torch.zeros(2, 1).double(), 3.0)
    torch.testing.assert_close(found, torch.full((2, 1), 0.2 * math.sqrt(math.pi)).double(), rtol=1e-7, atol=0)


def test_a_diverging_solution_is_an_error():
    with pytest.raises(
        NumericalError, match=r"the ODE of rows 1 of the batch needs steps below .* at t = 0\.5.*larger"
    ):
        solve(lambda t, y: y**2, torch.tensor([[0.01], [2.0]]).double(), 1.0)
