"""The multi-scale loss: a squared error with frequency-dependent weights."""

import pytest
import scipy.fft
import torch

from hdit_core.diffusion.loss import cosine_transform, frequency_weights, mean_square

CPU, DOUBLE = torch.device("cpu"), torch.float64


@pytest.fixture
def error():
    return torch.randn(3, 2, 8, 12, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))


def test_the_transform_is_the_orthonormal_one_of_scipy(error):
    rows, columns = cosine_transform(8, DOUBLE, CPU), cosine_transform(12, DOUBLE, CPU)
    expected = torch.from_numpy(scipy.fft.dctn(error.numpy(), axes=(2, 3), norm="ortho"))
    torch.testing.assert_close(rows @ error @ columns.T, expected)


def test_with_one_scale_the_loss_is_the_mean_square(error):
    torch.testing.assert_close(mean_square(error, 1), error.square().mean((1, 2, 3)))
    assert (frequency_weights(8, 12, 1, DOUBLE, CPU) == 1).all()


def test_each_halving_of_the_frequency_adds_one_scale_up_to_the_bound():
    weights = frequency_weights(16, 16, 3, DOUBLE, CPU).diagonal()  # of the frequencies 1/32, 2/32, ..., 1/2
    found = weights[[15, 7, 3, 1, 0]]
    torch.testing.assert_close(found, torch.tensor([1.0, 2, 3, 3, 3], dtype=DOUBLE))
    torch.testing.assert_close(
        frequency_weights(16, 16, 0, DOUBLE, CPU).diagonal()[[15, 7, 3, 1, 0]], torch.tensor([1.0, 2, 3, 4, 5]).double()
    )


def test_the_axis_with_the_higher_frequency_decides():
    weights = frequency_weights(8, 16, 0, DOUBLE, CPU)
    torch.testing.assert_close(weights[7], torch.ones(16, dtype=DOUBLE))
    torch.testing.assert_close(weights[:, 15], torch.ones(8, dtype=DOUBLE))
    assert weights[0, 0] == weights.max() == 4  # 2 x 8 pixels are the longest wave of the shorter side


def test_a_constant_error_is_weighted_by_the_number_of_scales_and_a_checkerboard_about_once():
    rows, columns = torch.arange(8)[:, None], torch.arange(12)[None, :]
    checkers = (1.0 - 2 * ((rows + columns) % 2)).expand(1, 1, 8, 12)
    assert mean_square(torch.ones(1, 1, 8, 12), 3).item() == pytest.approx(3)
    assert mean_square(checkers, 3).item() == pytest.approx(1, abs=0.05)


def test_the_weighted_sum_equals_that_of_scipys_transform(error):
    spectrum = torch.from_numpy(scipy.fft.dctn(error.numpy(), axes=(2, 3), norm="ortho"))
    expected = (spectrum**2 * frequency_weights(8, 12, 2, DOUBLE, CPU)).mean((1, 2, 3))
    torch.testing.assert_close(mean_square(error, 2), expected)


def test_autocast_does_not_round_the_transform(error):
    error = error.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mean_square(error, 3), mean_square(error, 3).float())
        rounded = mean_square(error, 3)
    assert torch.equal(rounded, mean_square(error, 3))


def test_tables_first_used_in_inference_can_be_used_in_training():
    with torch.inference_mode():
        mean_square(torch.ones(1, 1, 6, 10), 2)
    error = torch.ones(1, 1, 6, 10, requires_grad=True)
    mean_square(error, 2).sum().backward()
    assert error.grad is not None
