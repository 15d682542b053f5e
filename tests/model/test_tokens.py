"""Patches, merges and splits."""

import pytest
import torch

from hdit_core.model.skip_connection import LerpSkip
from hdit_core.model.tokens import TokenMerge, TokenSplit


def test_patches_are_flattened_row_by_row_with_their_channels_together():
    merge = TokenMerge(3, 12, (2, 2))
    merge.proj.weight.data = torch.eye(12)
    x = torch.randn(2, 4, 6, 3)
    merged = merge(x)
    assert merged.shape == (2, 2, 3, 12)
    for row in range(2):
        for column in range(2):
            start = (row * 2 + column) * 3
            assert torch.equal(merged[:, :, :, start : start + 3], x[:, row::2, column::2])


@pytest.mark.parametrize("block", [(2, 2), (4, 2), (1, 3)])
def test_a_split_undoes_a_merge(block):
    width = 3 * block[0] * block[1]
    merge, split = TokenMerge(3, width, block), TokenSplit(width, 3, block)
    merge.proj.weight.data = split.proj.weight.data = torch.eye(width)
    x = torch.randn(2, 8, 12, 3)
    assert torch.equal(split(merge(x)), x)


def test_the_learned_mix_is_the_weight_of_the_upsampled_tokens():
    split = LerpSkip(8, 2)
    split.proj.weight.data = torch.eye(8)
    x, skip = torch.randn(2, 3, 5, 8), torch.randn(2, 6, 10, 2)
    up = TokenSplit.forward(split, x)
    for mix, expected in ((0.0, skip), (1.0, up), (0.25, 0.75 * skip + 0.25 * up)):
        torch.nn.init.constant_(split.mix, mix)
        torch.testing.assert_close(split(x, skip), expected)
