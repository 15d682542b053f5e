"""A dispatch mode sees a fused block as one operator, with its FLOPs, and saves the same tensors."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from hdit_core.model import blocks
from hdit_core.model.native import ctypes_bindings
from hdit_core.model.native.rowwise import load_rowwise_kernels
from tests.model.native.test_feed_forward import block_and_inputs
from tests.model.native.test_windows import case

pytestmark = pytest.mark.skipif(
    isinstance(load_rowwise_kernels(), str) or ctypes_bindings.find_gemm() is None,
    reason="needs a C++ compiler and MKL",
)
CASES = {"feed-forward": block_and_inputs, "windows": case}


def flops_and_gradients(block, x, *inputs):
    """Return the FLOPs of a forward and a backward pass, and the gradients."""
    x = x.detach().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        block(x, *inputs).square().sum().backward()
    grads = [tensor.grad for tensor in (x, *block.parameters())]
    block.zero_grad()
    return counter.get_flop_counts()["Global"], grads


@pytest.mark.parametrize("kind", CASES)
def test_a_fused_block_counts_the_flops_of_separate_operations(kind, watch_passes, monkeypatch):
    block, *inputs = CASES[kind]()
    passes = watch_passes({"feed-forward": "fused_feed_forward", "windows": "fused_window_attention"}[kind])
    found, grads = flops_and_gradients(block, *inputs)
    assert passes == [True]
    assert sum(str(name).startswith("hdit.") for name in found) == 2  # forward and backward
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "can_fuse", lambda *_: False)
        expected, expected_grads = flops_and_gradients(block, *inputs)
    attention = 0 if kind == "feed-forward" else 14 * inputs[0].numel() * 64  # torch does not count its own on CPUs
    assert sum(found.values()) == sum(expected.values()) + attention
    for ours, theirs in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("counted", ["forward", "backward"])
def test_recomputation_fuses_the_block_as_the_forward_pass_did_under_a_dispatch_mode(kind, counted):
    block, x, *inputs = CASES[kind]()
    grads = []
    for mode in (FlopCounterMode(display=False), None):
        x = x.detach().requires_grad_()
        if mode is None:
            checkpoint(block, x, *inputs, use_reentrant=False).sum().backward()
        elif counted == "forward":
            with mode:
                result = checkpoint(block, x, *inputs, use_reentrant=False)
            result.sum().backward()
        else:
            result = checkpoint(block, x, *inputs, use_reentrant=False)
            with mode:
                result.sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("keep", [False, True])
def test_fake_implementations_give_the_shapes_of_the_real_ones(keep):
    block, x, cond = block_and_inputs()
    tensors = x, block.norm.scale(cond).detach(), block.up.weight.detach(), block.down.weight.detach()
    checks = {"test_utils": ("test_schema", "test_faketensor")}
    torch.library.opcheck(torch.ops.hdit.feed_forward.default, (*tensors, 1e-6, keep), **checks)
    _, saved = torch.ops.hdit.feed_forward(*tensors, 1e-6, True)
    gradient = torch.ops.hdit.feed_forward_gradient.default
    torch.library.opcheck(gradient, (torch.ones_like(x), *tensors, saved, 1e-6), **checks)

    block, x, cond, rotation = case()
    layout = block.operator.layout(x, rotation)
    weights = (block.norm.scale(cond), block.qkv.weight, block.scale.sqrt(), block.out.weight)
    weights = tuple(weight.detach() for weight in weights)
    torch.library.opcheck(torch.ops.hdit.window_attention.default, (x, *weights, *layout, 1e-6, keep), **checks)
    _, *saved = torch.ops.hdit.window_attention(x, *weights, *layout, 1e-6, True)
    gradient = torch.ops.hdit.window_attention_gradient.default
    torch.library.opcheck(gradient, (torch.ones_like(x), x, *weights, *saved, *layout, 1e-6), **checks)
