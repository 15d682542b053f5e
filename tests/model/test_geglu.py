"""The gated activation GEGLU."""

import pytest
import torch
from torch.nn import functional as F

from hdit_core.model.geglu import geglu


def test_geglu_is_the_first_half_times_the_exact_gelu_of_the_second():
    x = torch.randn(2, 3, 5, 14, dtype=torch.float64)
    torch.testing.assert_close(geglu(x), x[..., :7] * F.gelu(x[..., 7:]), rtol=1e-14, atol=0)


def test_the_analytic_gradient_equals_the_numerical_one():
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(geglu, (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_lower_precision_geglu_agrees_with_the_plain_formula_and_its_gradient(dtype, without_rows):
    x = torch.randn(2, 3, 5, 14).to(dtype).requires_grad_()
    grad = torch.randn(2, 3, 5, 7).to(dtype)
    values, gates = x.chunk(2, -1)
    plain = values * F.gelu(gates)
    torch.testing.assert_close(geglu(x), plain)
    (found,), (expected,) = (torch.autograd.grad(y, x, grad) for y in (geglu(x), plain))
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected)
