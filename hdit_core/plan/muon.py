"""Temporary memory of Muon's step, which orthogonalizes one hidden parameter at a time (`train.optim.muon`)."""

from collections.abc import Iterator
from typing import NamedTuple

from hdit_core.flops.activations import FLOAT32
from hdit_core.flops.count import MATRICES_PER_FEED_FORWARD
from hdit_core.recipe.model import ModelRecipe


class MatrixStack(NamedTuple):
    """A hidden parameter: `stacked` matrices of rows x columns, concatenated along the rows."""

    stacked: int
    rows: int
    columns: int

    def workspace(self, value_bytes: int) -> int:
        """Return the peak bytes of the Newton-Schulz iteration for this parameter, including its unsharded gradient.

        Args:
            value_bytes: per number in matrix products: 2 for bfloat16, 4 for float32.
        """
        numbers = self.stacked * self.rows * self.columns
        square = self.stacked * min(self.rows, self.columns) ** 2
        # the matrix, a times the matrix, the product and their sum, with the polynomial; or the polynomial's terms
        peak = max(4 * numbers + square, 2 * numbers + 4 * square)
        return FLOAT32 * numbers + value_bytes * peak


def hidden_parameters(model: ModelRecipe) -> Iterator[MatrixStack]:
    """Yield the largest hidden parameters of each level and of each merge."""
    for index, level in enumerate(model.levels):
        if level.attention != "none":
            yield MatrixStack(3, level.width, level.width)
        yield MatrixStack(MATRICES_PER_FEED_FORWARD[model.feed_forward] - 1, level.hidden, level.width)
        if index + 1 < len(model.levels):
            yield MatrixStack(1, model.levels[index + 1].width, 4 * level.width)


def muon_workspace(model: ModelRecipe, value_bytes: int, sharded: bool) -> int:
    """Return the peak bytes of Muon's step in addition to weights, gradients and optimizer state.

    Args:
        value_bytes: per number in matrix products: 2 for bfloat16, 4 for float32.
        sharded: whether each rank gathers the unsharded update, which needs another copy.
    """
    copies = FLOAT32 if sharded else 0
    return max(
        stack.workspace(value_bytes) + copies * stack.stacked * stack.rows * stack.columns
        for stack in hidden_parameters(model)
    )
