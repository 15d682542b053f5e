"""The fused attention block with windows, against the separate operations, in float64 too."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hdit_core.model.attention.global_attention import global_attention
from hdit_core.model.attention.shifted_window import ShiftedWindows
from hdit_core.model.blocks import AttentionBlock
from hdit_core.model.fused_blocks import fused_window_attention
from hdit_core.model.native import ctypes_bindings as gemm
from hdit_core.model.native import workspace as extent
from hdit_core.model.native.rowwise import load_rowwise_kernels
from hdit_core.model.norm import AdaLayerNorm, AdaRMSNorm

pytestmark = pytest.mark.skipif(
    isinstance(load_rowwise_kernels(), str) or gemm.find_gemm() is None,
    reason=f"passes over rows: {load_rowwise_kernels()}; MKL in torch: {gemm.find_gemm() is not None}",
)
SIZES = [  # images, grid, width, features of a head, window, shift
    (1, (8, 8), 64, 64, 8, 0),
    (2, (16, 24), 128, 64, 8, 4),
    (3, (8, 16), 64, 32, 4, 2),
    (2, (14, 21), 48, 16, 7, 3),
    (5, (10, 8), 24, 24, 2, 1),
    (2, (32, 32), 32, 16, 16, 8),
]


def case(images=2, grid=(16, 24), width=64, head_dim=32, window=8, shift=4, norm=AdaRMSNorm, operator=None):
    """Return a block, its input, its conditioning and the rotations."""
    operator = operator or ShiftedWindows(window, shift)
    block = AttentionBlock(norm(width, 16), width, head_dim, operator, dropout=0.1).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    nn.init.uniform_(block.scale, 2, 12)
    angles = torch.randn(*grid, width // head_dim, head_dim // 4)
    unturned = torch.ones(*grid, width // head_dim, head_dim - 2 * (head_dim // 4))
    rotation = torch.cat([angles.cos(), angles.cos(), unturned], dim=-1), angles.sin()
    return block, torch.randn(images, *grid, width), torch.randn(images, 16), rotation


@pytest.fixture
def passes(watch_passes):
    """Return a list to which every block that might go in one pass adds whether it did."""
    return watch_passes("fused_window_attention")


def output_and_gradients(block, x, cond, rotation):
    """Return the output and the gradients of input, conditioning and parameters, for one of it that is not flat."""
    inputs = [x.detach().requires_grad_(), cond.detach().requires_grad_()]
    result = block(*inputs, rotation)
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result.dtype)
    return [result, *torch.autograd.grad(result, [*inputs, *block.parameters()], grad)]


def in_float64(block, x, cond, rotation):
    return block.double(), x.double(), cond.double(), tuple(part.double() for part in rotation)


def agree(found, exact, rtol=3e-6):
    for ours, theirs in zip(found, exact, strict=True):
        assert (ours - theirs).norm() <= rtol * theirs.norm()
        assert (ours - theirs).abs().max() <= 10 * rtol * theirs.abs().max()


@pytest.mark.parametrize("sizes", SIZES)
def test_output_and_gradients_agree_with_float64(sizes, threads, passes):
    arguments = case(*sizes)
    found, again = output_and_gradients(*arguments), output_and_gradients(*arguments)
    assert passes == [True, True] and all(map(torch.equal, found, again))

    agree(found, output_and_gradients(*in_float64(*arguments)))
    assert passes == [True, True]


@pytest.mark.parametrize("grid", [(8, 8), (12, 9), (16, 16)])
def test_a_small_grid_is_trained_as_one_window_where_each_thread_has_an_image(grid, threads, passes):
    arguments = case(2, grid, operator=global_attention)
    found = output_and_gradients(*arguments)
    assert passes == [True]

    agree(found, output_and_gradients(*in_float64(*arguments)))
    block, x, cond, rotation = case(1, grid, operator=global_attention)
    block(x, cond, rotation)
    assert passes == [True] * (3 - threads)
    with torch.no_grad():
        block(x, cond, rotation)
    assert passes == [True] * (3 - threads)


@pytest.mark.parametrize("windows", [1, 3, 100])
def test_the_number_of_windows_at_a_time_changes_no_bit_of_the_output(windows, passes, monkeypatch):
    block, x, cond, rotation = case(3, (16, 40))
    given, expected = x.clone(), block(x, cond, rotation)
    monkeypatch.setattr(extent, "WINDOW_ROWS", 64 * windows)

    assert torch.equal(block(x, cond, rotation), expected) and torch.equal(x, given)
    agree(output_and_gradients(block, x, cond, rotation), output_and_gradients(*in_float64(block, x, cond, rotation)))
    assert passes == [True] * 3


def test_the_output_is_bit_identical_in_sampling_and_training_and_in_any_batch(threads, passes):
    block, x, cond, rotation = case(3)
    trained = block(x, cond, rotation)
    with torch.inference_mode():
        sampled, alone = block(x, cond, rotation), block(x[1:2], cond[1:2], rotation)
    torch.set_num_threads(3 - threads)

    assert trained.requires_grad and torch.equal(sampled, trained) and torch.equal(alone[0], trained[1])
    assert torch.equal(block(x, cond, rotation), trained) and passes == [True] * 4


def test_inputs_that_are_not_contiguous_give_the_same_result(passes):
    block, x, cond, rotation = case(grid=(16, 16))
    strided = torch.randn(2, 16, 16, 128)[..., ::2]
    strided.copy_(x)

    assert torch.equal(block(strided, cond, rotation), block(x, cond, rotation)) and passes == [True, True]


def test_weights_that_are_not_contiguous_give_the_same_result(passes):
    block, x, cond, rotation = case()
    expected = output_and_gradients(block, x, cond, rotation)
    for linear in (block.qkv, block.out):
        linear.weight = nn.Parameter(linear.weight.detach().t().contiguous().t())

    found = output_and_gradients(block, x, cond, rotation)
    assert all(map(torch.equal, found, expected)) and passes == [True, True]


def test_a_scale_of_zero_weights_all_keys_equally_and_a_negative_one_gives_nan(passes):
    block, x, cond, rotation = case()
    nn.init.zeros_(block.scale)
    parts = output_and_gradients(block, x, cond, rotation)
    exact = output_and_gradients(*in_float64(block, x, cond, rotation))
    agree(parts[:2], exact[:2])

    block, x, cond, rotation = case()
    nn.init.constant_(block.scale, -1.0)
    assert block(x, cond, rotation).isnan().all() and passes == [True, True]


def hooked(block):
    block.qkv.register_forward_hook(lambda *_: None)


def hooked_at_the_norm(block):
    block.norm.register_forward_pre_hook(lambda *_: None)


def hooked_backwards(block):
    block.out.register_full_backward_hook(lambda *_: None)


def hooked_modulation(block):
    block.norm.register_full_backward_pre_hook(lambda *_: None)


def patched(block):
    block.out.forward = block.out.forward


def dropping_alone(block):
    block.dropout.train()


def partly_frozen(block):
    block.out.weight.requires_grad_(False)


def replaced(block):
    weight, block.out = block.out.weight, nn.Linear(64, 64, bias=False)
    block.out.weight = weight


def dropping(block):
    block.train()


CHANGES = [
    *(hooked, hooked_at_the_norm, hooked_backwards, hooked_modulation),
    *(patched, replaced, dropping, dropping_alone, partly_frozen),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_block_with_hooks_or_replaced_parts_is_not_fused(change, passes):
    block, x, cond, rotation = case()
    block(x, cond, rotation)
    change(block)
    block(x, cond, rotation)
    assert passes in ([True], [True, False])


@pytest.mark.parametrize("more", [{"norm": AdaLayerNorm}, {"operator": global_attention}], ids=["norm", "attention"])
def test_other_norms_and_attention_are_not_fused(more, passes):
    block, x, cond, rotation = case(**more)
    block(x, cond, rotation)
    assert passes == []


def test_flops_are_counted_and_autocast_is_respected(passes):
    block, x, cond, rotation = case()
    with FlopCounterMode(display=False) as counter:
        block(x, cond, rotation)
    assert counter.get_total_flops() >= 2 * 2 * 16 * 24 * 4 * 64**2
    with torch.autocast("cpu", torch.bfloat16):
        assert block(x, cond, rotation).isfinite().all()
    assert passes == [True]


@pytest.mark.parametrize("sizes", [(3, (4, 8), 64, 32, 4), (1, (8, 8), 528, 16, 8)], ids=["few rows", "large weights"])
def test_blocks_are_not_fused_where_that_would_be_slower(sizes, passes):
    block, x, cond, rotation = case(*sizes, 0)
    assert block(x, cond, rotation).shape == x.shape and passes == []


def test_unsupported_inputs_use_the_separate_operations():
    block, x, _, (cos, sin) = case(3)
    scale, qkv, out = torch.rand(3, 1, 1, 64), block.qkv.weight, block.out.weight
    layout = block.operator.layout(x, (cos, sin))

    def is_taken(x=x, scale=scale, qkv=qkv, out=out, layout=layout) -> bool:
        return fused_window_attention(x, scale, qkv, block.scale, out, layout) is not None

    assert is_taken()
    assert not is_taken(scale=scale[:1]) and not is_taken(scale=scale[:2]) and not is_taken(scale=scale[:, 0])
    assert not is_taken(x=x[..., :32].contiguous()) and not is_taken(qkv=qkv[:-1]) and not is_taken(out=out[:-1])
    assert not is_taken(layout=layout._replace(cos=cos[:1, :1].contiguous(), sin=sin[:1, :1].contiguous()))


def test_modifying_the_rotations_before_the_backward_pass_is_detected(passes):
    block, x, cond, rotation = case()
    result = block(x, cond, rotation)
    rotation[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()
    assert passes == [True]


def test_forward_mode_ad_and_global_hooks_prevent_fusion(passes):
    block, x, cond, rotation = case()
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda part, *_: seen.append(part))
    try:
        block(x, cond, rotation)
    finally:
        handle.remove()
    assert block.qkv in seen and passes == []

    block.requires_grad_(False)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward"):
        block(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)), cond, rotation)
    assert passes == []


def test_a_window_that_does_not_divide_the_grid_is_refused():
    block, x, cond, rotation = case(grid=(12, 16))
    with pytest.raises(ValueError, match="window_size = 8 does not divide the 12x16 grid"):
        block(x, cond, rotation)
