"""Weight initialization (HDiT paper, section 3, and k-diffusion), and the linear layer.

Every module with tensors has an attribute `initial` with an initializer for each, a function of the shape and of the
tensor's own random stream; `initialize` in `hourglass.py` calls them.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = Sequence[int]
Initial = Callable[[np.random.Generator, Shape], np.ndarray]

MIN_ROWS = 16


def constant(value: float) -> Initial:
    """Return an initializer that sets all entries to one value."""
    return lambda numbers, shape: np.full(shape, value, np.float32)


def uniform_fan_in(numbers: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return values uniform in +-1/sqrt(columns), torch's default for linear layers."""
    bound = 1 / math.sqrt(shape[-1])
    return (2 * numbers.random(tuple(shape), np.float32) - 1) * np.float32(bound)


def standard_normal(numbers: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return values with mean 0 and standard deviation 1."""
    return numbers.standard_normal(tuple(shape), np.float32)


def nan_init(*shape: int) -> Tensor:
    """Return a tensor of NaN, which marks it as not initialized: a network used before `initialize` outputs NaN."""
    return torch.full(shape, math.nan)


class Linear(nn.Module):
    """y = W x. No linear layer of HDiT has a bias.

    Fewer than `MIN_ROWS` rows are padded with zeros: CPU matrix products of few rows sum in another order, which would
    make the last bits of an image depend on the batch size. Gradients are unaffected.
    """

    initial: Mapping[str, Initial]

    def __init__(self, features_in: int, features_out: int, initial: Initial = uniform_fan_in) -> None:
        super().__init__()
        self.weight = nn.Parameter(nan_init(features_out, features_in))
        self.initial = {"weight": initial}

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., features_in]` to `[..., features_out]`."""
        rows = x.numel() // x.shape[-1]
        if rows >= MIN_ROWS:
            return F.linear(x, self.weight)
        padded = F.pad(x.reshape(rows, x.shape[-1]), (0, 0, 0, MIN_ROWS - rows))
        return F.linear(padded, self.weight)[:rows].reshape(*x.shape[:-1], -1)
