"""The moving average of the weights: what samples are drawn with."""

import copy

import torch
from torch import Tensor, nn

from hdit_core.train.gather import local


def ema_decay(step: int, power: float, largest: float) -> float:
    """Return the decay of the update after `step` earlier ones: 1 - (1 + step)^-power, at most `largest`.

    The first update (step 0) copies the weights (k-diffusion's inverse warm-up; HDiT paper, table 7).
    """
    return min(max(1.0 - (1.0 + step) ** -power, 0.0), largest)


class Ema:
    """A second network whose weights follow those of the trained one.

    Attributes:
        source: the trained network itself, before anything wraps it.
        network: the average; it drops nothing and learns nothing.
    """

    def __init__(self, source: nn.Module, network: nn.Module | None = None) -> None:
        """
        Args:
            source: the trained network itself, before anything wraps it.
            network: another with the same weights, held in the same parts; default: a copy.
        """
        self.source = source
        self.network = (network or copy.deepcopy(source)).eval().requires_grad_(False)
        self._averages: list[Tensor] = list(self.network.parameters())
        self._weights: list[Tensor] = list(source.parameters())

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move every average towards its weight: ema += (1 - decay) (weight - ema)."""
        averages, weights = ([local(tensor) for tensor in tensors] for tensors in (self._averages, self._weights))
        torch._foreach_lerp_(averages, weights, 1.0 - decay)
