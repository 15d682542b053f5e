"""The moving average of the weights: what samples are drawn with."""

import copy

import torch
from torch import Tensor, nn


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

    def __init__(self, network: nn.Module) -> None:
        self.source = network
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._averages: list[Tensor] = list(self.network.parameters())
        self._weights: list[Tensor] = [weight.detach() for weight in network.parameters()]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move every average towards its weight: ema += (1 - decay) (weight - ema)."""
        torch._foreach_lerp_(self._averages, self._weights, 1.0 - decay)
