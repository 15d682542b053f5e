"""Root-mean-square norms."""

import pytest
import torch

from hdit_core.model.norm import AdaRMSNorm, RMSNorm, ScaledRMSNorm, rms_norm


def test_rms_norm_divides_by_the_root_of_the_mean_square():
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    scale = torch.randn(2, 1, 1, 7, dtype=torch.float64)
    expected = scale * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(rms_norm(x, scale), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("grid", [(3, 2), (1, 1)])
@pytest.mark.parametrize("scale_shape", [(5,), (2, 1, 1, 5)])
def test_the_analytic_gradient_equals_the_numerical_one(grid, scale_shape):
    x = torch.randn(2, *grid, 5, dtype=torch.float64, requires_grad=True)
    scale = torch.randn(scale_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rms_norm, (x, scale))
    assert torch.autograd.gradcheck(ScaledRMSNorm.apply, (x, scale))  # and with what goes past the norm


def test_a_row_of_zeros_stays_zero_and_has_a_gradient():
    x = torch.zeros(2, 3, requires_grad=True)
    y = rms_norm(x, torch.ones(3))
    y.sum().backward()
    assert (y == 0).all()
    torch.testing.assert_close(x.grad, torch.full((2, 3), 1e3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_16_bit_activations_are_taken_in_float32(dtype):
    x = (100 * torch.randn(4, 512)).to(dtype)  # their squares overflow float16, their sum loses itself in bfloat16
    scale = torch.randn(512).to(dtype)
    exact = rms_norm(x.double(), scale.double())
    found = rms_norm(x, scale)
    assert found.dtype == dtype
    torch.testing.assert_close(found, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=0)


def test_a_second_derivative_raises_an_error():
    x = torch.randn(3, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(rms_norm(x, torch.ones(4)).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_the_conditioning_scales_each_image_by_one_plus_its_own():
    norm, plain = AdaRMSNorm(6, 4), RMSNorm(6)
    torch.nn.init.normal_(norm.modulation.weight)
    torch.nn.init.ones_(plain.scale)
    x, cond = torch.randn(3, 2, 5, 6), torch.randn(3, 4)
    expected = plain(x) * (1 + cond @ norm.modulation.weight.T)[:, None, None, :]
    normal, beside = norm(x, cond)
    torch.testing.assert_close(normal, expected)
    assert torch.equal(beside, x)
