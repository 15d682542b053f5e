"""FlexAttention with hdit's block mask is neighborhood attention, and visits a number of blocks linear in the tokens.

On a CPU it runs uncompiled, or traced by torch.compile. Its check that no gradient is needed on a CPU is disabled: the
compiled CPU kernels have no gradient, but the uncompiled formulas do. FlexAttention always traces the mask, so shape
checks are disabled here.
"""

import jaxtyping
import pytest
import torch
from einops import rearrange
from torch.nn.attention import flex_attention as torchs

from hdit_core.model.attention import flex
from hdit_core.model.attention.interface import KernelTarget
from tests.model.neighborhoods import CASES, assert_by_definition, brute_force, random_qkv

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture(autouse=True)
def _unchecked():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def gradients(monkeypatch):
    """Allow gradients of FlexAttention on a CPU."""
    monkeypatch.setattr(torchs, "_validate_device", lambda *tensors: None)


def attend(q, k, v, kernel_size):
    return flex.attend_in_blocks(q, k, v, kernel_size, flex._plain_attend)


@pytest.mark.usefixtures("gradients")
@pytest.mark.parametrize("case", CASES[2:5], ids=str)
def test_outputs_and_gradients_equal_those_of_the_definition(case):
    assert_by_definition(attend, case)


@pytest.mark.usefixtures("gradients")
def test_outputs_and_gradients_in_float32_equal_those_of_the_definition():
    assert_by_definition(attend, CASES[0], torch.float32)


@pytest.mark.parametrize("case", [(7, 9, 3), (8, 16, 7), (31, 17, 5), (12, 40, 9), (33, 67, 15), (29, 40, 29)], ids=str)
def test_the_mask_of_tokens_is_that_of_the_definition(case):
    height, width, kernel_size = case
    mask = flex.block_mask(height, width, kernel_size, "cpu")
    tokens = torch.arange(mask.seq_lengths[0])
    attends = mask.mask_mod(0, 0, tokens[:, None], tokens[None, :])
    at = flex.to_blocks(torch.arange(height * width).view(1, height, width, 1, 1) + 1).flatten() - 1  # -1: padding
    inside = at >= 0
    assert not attends[:, ~inside].any()
    assert (attends.sum(-1) == kernel_size**2).all()
    for axis, size in ((at // width, height), (at % width, width)):
        first = (axis - kernel_size // 2).clamp(0, size - kernel_size)[inside, None]
        key = axis[None, inside]
        wrong = attends[inside][:, inside] & ~((key >= first) & (key < first + kernel_size))
        assert not wrong.any()


@pytest.mark.parametrize("case", [(7, 9, 3), (8, 16, 7), (31, 17, 5), (12, 40, 9), (33, 67, 15), (29, 40, 29)], ids=str)
def test_the_visited_blocks_are_those_that_are_not_fully_masked(case):
    mask = flex.block_mask(*case, "cpu")
    tokens = torch.arange(mask.seq_lengths[0])
    attends = mask.mask_mod(0, 0, tokens[:, None], tokens[None, :])
    expected = rearrange(attends, "(q a) (k b) -> q k (a b)", a=flex.BLOCK, b=flex.BLOCK).any(-1)
    assert torch.equal(mask.to_dense()[0, 0].bool(), expected)


@pytest.mark.parametrize(("kernel_size", "most"), [(3, 9), (7, 9), (15, 9), (19, 15)])
def test_the_number_of_visited_blocks_is_linear_in_the_number_of_tokens(kernel_size, most):
    for height, width in ((64, 64), (64, 256), (256, 256)):
        visited = flex.block_mask(height, width, kernel_size, "cpu").kv_num_blocks
        assert visited.max() == most
        assert visited.sum() <= most * height * width / flex.BLOCK


def test_from_blocks_is_the_inverse_of_to_blocks():
    x = torch.randn(2, 13, 37, 3, 8)
    blocks = flex.to_blocks(x)
    assert blocks.shape == (2, 3, 2 * 3 * flex.BLOCK, 8)
    assert torch.equal(flex.from_blocks(blocks, 13, 37), x)
    assert torch.equal(blocks[:, :, : flex.BLOCK], rearrange(x[:, :8, :16], "b t u n d -> b n (t u) d"))


@pytest.mark.slow
@pytest.mark.usefixtures("gradients")
def test_torch_compile_traces_forward_and_backward_and_builds_each_mask_once(monkeypatch):
    made = []
    make = flex.block_mask
    monkeypatch.setattr(flex, "block_mask", lambda *grid: made.append(grid) or make(*grid))
    monkeypatch.setattr(flex, "MASKS", {})

    def two_layers(q, k, v):
        return flex.attend(flex.attend(q, k, v, 5) + q, k, v, 5)

    torch._dynamo.reset()
    compiled = torch.compile(two_layers, fullgraph=True, backend="aot_eager", dynamic=False)
    for height, width in ((9, 17), (20, 7)):
        q, k, v, grad = random_qkv(2, height, width, 1, 4)
        q.requires_grad_()
        found = compiled(q, k, v)
        expected = brute_force(brute_force(q, k, v, 5) + q, k, v, 5)
        torch.testing.assert_close(found, expected)
        ours, theirs = (torch.autograd.grad(out, q, grad)[0] for out in (found, expected))
        torch.testing.assert_close(ours, theirs)
    assert made == [(9, 17, 5, "cpu"), (20, 7, 5, "cpu")]


@pytest.mark.usefixtures("gradients")
def test_a_mask_made_in_inference_mode_can_be_used_in_training(monkeypatch):
    monkeypatch.setattr(flex, "MASKS", {})
    q, k, v, grad = random_qkv(1, 9, 17, 1, 8)
    with torch.inference_mode():
        attend(q, k, v, 3)
    q.requires_grad_()
    torch.autograd.grad(attend(q, k, v, 3), q, grad)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((torch.float64, 64), "FlexAttention supports float16, bfloat16 and float32, found float64"),
        ((torch.float32, 8), "FlexAttention supports head_dim of at least 16, found 8"),
        ((torch.float32, 16), "FlexAttention fails its self-test: RuntimeError: no compiler"),
    ],
)
def test_the_reason_why_flexattention_cannot_run_is_reported(monkeypatch, place, message):
    def broken(*arguments, **keys):
        raise RuntimeError("no compiler\nand a long trace")

    monkeypatch.setattr(flex, "_compiled", broken)
    assert flex.unavailable(KernelTarget(torch.device("cpu"), *place)) == message


@pytest.mark.usefixtures("gradients")
def test_flexattention_is_available_if_its_self_test_passes(monkeypatch):
    monkeypatch.setattr(flex, "_compiled", torchs.flex_attention)
    place = KernelTarget(torch.device("cpu"), torch.bfloat16, 16)
    assert flex.unavailable(place) is None
    assert flex.describe(place) == f"FlexAttention of torch {torch.__version__}, compiled (CPU)"
