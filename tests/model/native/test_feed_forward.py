"""The fused feed-forward block: bit-identical to separate operations, and not used if hooks observe them."""

import ctypes

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hdit_core.model import blocks
from hdit_core.model.blocks import FeedForwardBlock
from hdit_core.model.fused_blocks import fused_feed_forward
from hdit_core.model.geglu import ACTIVATIONS, geglu
from hdit_core.model.native import ctypes_bindings as gemm
from hdit_core.model.native import rowwise as rows
from hdit_core.model.native import workspace as extent
from hdit_core.model.native.rowwise import load_rowwise_kernels
from hdit_core.model.norm import ADA_NORMS, AdaRMSNorm

needs_both = pytest.mark.skipif(
    isinstance(load_rowwise_kernels(), str) or gemm.find_gemm() is None,
    reason=f"passes over rows: {load_rowwise_kernels()}; MKL in torch: {gemm.find_gemm() is not None}",
)
SIZES = [(1, 8, 16, 32, 96), (3, 17, 23, 40, 24), (5, 16, 16, 128, 384)]  # images, grid, features, hidden ones


def block_and_inputs(images=2, height=13, width=29, features=24, hidden=72, norm=AdaRMSNorm, unit="geglu"):
    block = FeedForwardBlock(norm(features, 16), features, hidden, ACTIVATIONS[unit], dropout=0.1).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block, torch.randn(images, height, width, features), torch.randn(images, 16)


@pytest.fixture
def passes(watch_passes):
    """Return a list to which every block that might go in one pass adds whether it did."""
    return watch_passes("fused_feed_forward")


@pytest.fixture
def step_by_step(monkeypatch):
    """Return a function that calls another while no block goes in one pass."""

    def call(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(blocks, "can_fuse", lambda *_: False)
            return function(*arguments)

    return call


def gradients(block, x, cond):
    """Return the gradients of input, conditioning and parameters, for one of the output that is not flat."""
    inputs = [x.detach().requires_grad_(), cond.detach().requires_grad_()]
    result = block(*inputs)
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result.dtype)
    return torch.autograd.grad(result, [*inputs, *block.parameters()], grad)


@needs_both
@pytest.mark.parametrize("block_numbers", [20_000, 10**9], ids=["many blocks", "one"])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_fused_block_is_bit_identical_to_the_separate_operations(
    sizes, block_numbers, threads, passes, step_by_step, monkeypatch
):
    monkeypatch.setattr(extent, "BLOCK_NUMBERS", block_numbers)
    block, x, cond = block_and_inputs(*sizes)
    given = x.clone()
    expected = step_by_step(block, x, cond).detach()
    assert passes == []
    with torch.inference_mode():
        found = block(x, cond)
    trained = block(x, cond)
    assert passes == [True, True] and trained.requires_grad and not found.requires_grad
    assert torch.equal(found, expected) and torch.equal(trained, expected) and torch.equal(x, given)
    assert not torch.equal(found, x)


@needs_both
@pytest.mark.parametrize("sizes", [*SIZES, (2, 16, 20, 136, 40)])
def test_the_gradients_of_the_fused_block_agree_with_float64(sizes, threads, passes):
    block, x, cond = block_and_inputs(*sizes)
    found, again = gradients(block, x, cond), gradients(block, x, cond)
    assert passes == [True, True]
    exact = gradients(block.double(), x.double(), cond.double())
    assert passes == [True, True]
    for ours, same, theirs in zip(found, again, exact, strict=True):
        assert torch.equal(ours, same)
        assert (ours - theirs).norm() <= 2e-6 * theirs.norm()
        assert (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max()


@needs_both
def test_only_the_input_and_the_gate_inputs_are_saved_for_backward(passes):
    block, x, cond = block_and_inputs(2, 16, 16, 64, 192)
    parameters, kept = {parameter.data_ptr() for parameter in block.parameters()}, {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(x, cond)
    of_rows = sum(size for address, size in kept.items() if address not in parameters)
    assert passes == [True]
    assert 0 <= of_rows - 4 * 2 * 16 * 16 * (64 + 2 * 192) <= 8 * 1024  # beside: what images' scales are made of


@needs_both
def test_inputs_that_are_not_contiguous_give_the_same_result(passes):
    block, x, cond = block_and_inputs()
    turned = x.transpose(1, 2)
    with torch.no_grad():
        assert torch.equal(block(turned, cond), block(x, cond).transpose(1, 2))
    assert passes == [True, True]


@needs_both
def test_the_thread_count_of_other_products_is_unchanged(passes):
    limit = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(gemm.find_gemm().limit)
    before = limit(3)
    try:
        block, x, cond = block_and_inputs()
        with torch.no_grad():
            block(x, cond)
        assert passes == [True] and limit(3) == 3
    finally:
        limit(before)


def hooked(block):
    block.up.register_forward_hook(lambda *_: None)


def hooked_before(block):
    block.dropout.register_forward_pre_hook(lambda *_: None)


def replaced(block):
    weight, block.down = block.down.weight, nn.Linear(72, 24, bias=False)
    block.down.weight = weight


def dropping(block):
    block.train()


def doubled(block):
    block.double()


@needs_both
@pytest.mark.parametrize(
    "change", [hooked, hooked_before, replaced, dropping, doubled], ids=lambda change: change.__name__
)
def test_a_block_with_hooks_replaced_parts_or_dropout_is_not_fused(change, passes):
    block, x, cond = block_and_inputs()
    with torch.no_grad():
        block(x, cond)
        change(block)
        dtype = block.up.weight.dtype
        block(x.to(dtype), cond.to(dtype))
    assert passes == [True]


@needs_both
@pytest.mark.parametrize(("norm", "unit"), [("layer", "geglu"), ("rms", "gelu")])
def test_other_norms_and_activations_are_not_fused(norm, unit, passes):
    block, x, cond = block_and_inputs(norm=ADA_NORMS[norm], unit=unit)
    with torch.no_grad():
        block(x, cond)
    assert passes == []


@needs_both
def test_flops_are_counted_and_autocast_is_respected(passes):
    block, x, cond = block_and_inputs()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        block(x, cond)
    with FlopCounterMode(display=False) as expected:
        block(x, cond)
    assert counter.get_total_flops() == expected.get_total_flops() >= 2 * 2 * 13 * 29 * 3 * 24 * 72
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert block.up(x).dtype == torch.bfloat16
        block(x, cond)
    assert passes == [True, True]


@needs_both
@pytest.mark.parametrize("sizes", [(3, 7, 9, 24, 72), (1, 8, 8, 256, 1368)], ids=["few rows", "large weights"])
def test_blocks_are_not_fused_where_that_would_be_slower(sizes, passes, step_by_step):
    block, x, cond = block_and_inputs(*sizes)
    with torch.no_grad():
        assert torch.equal(block(x, cond), step_by_step(block, x, cond))
    assert passes == []


@needs_both
def test_unsupported_inputs_use_the_separate_operations():
    x, scale, up, down = torch.randn(3, 8, 16, 24), torch.rand(3, 1, 1, 24), torch.randn(144, 24), torch.randn(24, 72)
    assert fused_feed_forward(x, scale, up, down) is not None
    for wrong in ((x, scale[:1]), (x, scale[:2]), (x[..., :16].contiguous(), scale), (x, scale[:, 0])):
        assert fused_feed_forward(*wrong, up, down) is None
    assert fused_feed_forward(x, scale, up[:-1], down) is None
    assert fused_feed_forward(x, scale, up, down[:-1]) is None


def test_the_choice_to_fuse_depends_on_the_image_size_and_not_on_the_batch_size():
    assert extent.should_fuse(64, 2**20) and not extent.should_fuse(63, 1) and not extent.should_fuse(2**20, 2**20 + 1)


def test_without_mkl_blocks_are_not_fused(monkeypatch, passes):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    gemm.find_gemm.cache_clear()
    try:
        assert gemm.find_gemm() is None
        block, x, cond = block_and_inputs()
        assert block(x, cond).isfinite().all() and passes == []
        note = rows.kernels_note(torch.device("cpu"), torch.float32)
        assert note is None or "RoPE" not in note or note.endswith("no fused blocks: this torch build has no MKL")
    finally:
        gemm.find_gemm.cache_clear()


def test_a_library_without_the_functions_counts_as_missing(monkeypatch):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(gemm, "LIBRARY", gemm.LIBRARY.with_name("libc10.so"))
    gemm.find_gemm.cache_clear()
    try:
        assert gemm.find_gemm() is None
    finally:
        gemm.find_gemm.cache_clear()


def test_the_fused_activation_is_that_named_geglu():
    assert ACTIVATIONS["geglu"][0] is geglu
