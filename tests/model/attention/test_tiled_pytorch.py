"""The dtypes of the tiled backend's products, including 16-bit ones, which are used on GPUs."""

import pytest
import torch

from hdit_core.model.attention import tiled_pytorch
from tests.model.neighborhoods import brute_force, random_qkv, with_gradients


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 6e-3), (torch.float16, 8e-4)])
def test_16_bit_products_after_the_softmax_lose_no_more_than_the_rounding_of_results(monkeypatch, dtype, tolerance):
    monkeypatch.setattr(tiled_pytorch, "product_dtype", lambda x: x.dtype)
    q, k, v, grad = random_qkv(2, 9, 14, 2, 8, dtype)
    inputs = 3 * q, k, v, grad  # logits of up to 40
    found = with_gradients(lambda *qkv: tiled_pytorch.attend(*qkv, 5), *inputs)
    exact = with_gradients(lambda *qkv: brute_force(*qkv, 5), *(x.double() for x in inputs))
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == dtype
        assert ((ours.double() - theirs).norm() / theirs.norm()).item() < tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_on_a_cpu_all_products_are_in_at_least_float32(dtype):
    assert tiled_pytorch.product_dtype(torch.zeros(2, dtype=dtype)) == torch.promote_types(dtype, torch.float32)
    assert tiled_pytorch.product_dtype(torch.zeros(2, dtype=dtype, device="meta")) == dtype
