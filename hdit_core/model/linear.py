"""What weights are before training (HDiT paper, section 3; hdit-facts 4.11), and the linear map that all parts use.

Every module of the network that owns tensors says in `initial` how each of them begins, a function of the shape and of
the tensor's own random stream; `initialize` of `hourglass.py` carries it out.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = Sequence[int]
Initial = Callable[[np.random.Generator, Shape], np.ndarray]

LEAST_ROWS = 16


def constant(value: float) -> Initial:
    """All entries the same."""
    return lambda numbers, shape: np.full(shape, value, np.float32)


def uniform_fan_in(numbers: np.random.Generator, shape: Shape) -> np.ndarray:
    """Uniform in +-1/sqrt(columns): what torch gives a linear layer."""
    bound = 1 / math.sqrt(shape[-1])
    return (2 * numbers.random(tuple(shape), np.float32) - 1) * np.float32(bound)


def standard_normal(numbers: np.random.Generator, shape: Shape) -> np.ndarray:
    """Mean 0, standard deviation 1."""
    return numbers.standard_normal(tuple(shape), np.float32)


def nan_init(*shape: int) -> Tensor:
    """A tensor that nobody has filled yet: NaN, so that a network used before `initialize` cannot pass unseen."""
    return torch.full(shape, math.nan)


class Linear(nn.Module):
    """y = W x. No linear map of HDiT has a bias.

    Fewer than `LEAST_ROWS` rows are padded with rows of zeros: CPU matrix products sum short stacks of rows in another
    order, and an image's last bits would depend on how many others are in its batch. Gradients are not touched.
    """

    initial: Mapping[str, Initial]

    def __init__(self, features_in: int, features_out: int, initial: Initial = uniform_fan_in) -> None:
        super().__init__()
        self.weight = nn.Parameter(nan_init(features_out, features_in))
        self.initial = {"weight": initial}

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., features_in]` to `[..., features_out]`."""
        rows = x.numel() // x.shape[-1]
        if rows >= LEAST_ROWS:
            return F.linear(x, self.weight)
        padded = F.pad(x.reshape(rows, x.shape[-1]), (0, 0, 0, LEAST_ROWS - rows))
        return F.linear(padded, self.weight)[:rows].reshape(*x.shape[:-1], -1)
