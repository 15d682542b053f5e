"""Moving averages of the weights: the run's EMA, and power-function EMAs for post-hoc reconstruction (EDM2).

Karras et al. (2024), section 3.1; see `hdit_core/checkpoint/ema/profile.py`. Averages are sharded like the parameters,
so that an update needs no communication.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from hdit_core.checkpoint.ema.profile import Profile, decay, gamma_of
from hdit_core.checkpoint.ema.snapshots import ema_name, rounded, write_snapshot
from hdit_core.distributed import World
from hdit_core.recipe.run import Recipe
from hdit_core.train.parallel.sharded_tensors import copy_into_shards, full_tensors_on_cpu, local_shard


def ema_decay(step: int, power: float, largest: float) -> float:
    """Return the decay of the update after `step` earlier ones: 1 - (1 + step)^-power, at most `largest`.

    The first update (step 0) copies the weights (k-diffusion's inverse warm-up; HDiT paper, table 7).
    """
    return min(max(1.0 - (1.0 + step) ** -power, 0.0), largest)


class WeightAverage:
    """Averages that follow the parameters of a network."""

    def __init__(self, averages: Iterable[Tensor], network: nn.Module) -> None:
        """
        Args:
            averages: one for each parameter, sharded like it.
            network: the trained one itself, before anything wraps it.
        """
        self._averages, self._weights = list(averages), list(network.parameters())

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move every average towards its weight: average += (1 - decay) (weight - average)."""
        averages, weights = ([local_shard(tensor) for tensor in tensors] for tensors in (self._averages, self._weights))
        torch._foreach_lerp_(averages, weights, 1.0 - decay)


class Ema(WeightAverage):
    """A second network whose weights are the averages.

    Attributes:
        source: the trained network itself, before anything wraps it.
        network: the averaged one, in evaluation mode.
    """

    def __init__(self, source: nn.Module, network: nn.Module | None = None) -> None:
        """
        Args:
            source: the trained network itself, before anything wraps it.
            network: another one with the same weights, sharded like it; default: a copy.
        """
        self.source = source
        self.network = (network or copy.deepcopy(source)).eval().requires_grad_(False)
        super().__init__(self.network.parameters(), source)


class PowerEma(WeightAverage):
    """A power-function EMA of one width."""

    def __init__(self, network: nn.Module, std: float) -> None:
        """Start with the weights of a network.

        Args:
            network: the trained one itself, before anything wraps it.
            std: the width sigma_rel, relative to the length of the run.
        """
        self.std = std
        self._gamma = gamma_of(std)
        self._network = network
        self._named = {name: weight.detach().clone() for name, weight in network.named_parameters()}
        super().__init__(self._named.values(), network)

    def update_after(self, before: int, after: int) -> None:
        """Include the weights after a step from `before` to `after` images."""
        self.update(decay(self._gamma, before, after))

    def tensors(self) -> dict[str, Tensor]:
        """Return the state of the network with these averages as its parameters."""
        return dict(self._network.state_dict()) | self._named

    def snapshot(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the contents of a snapshot, from `tensors` on the CPU: averages in float16."""
        return {name: rounded(tensor) if name in self._named else tensor for name, tensor in whole.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned, unsharded on every rank."""
        for name, average in self._named.items():
            copy_into_shards(average, tensors[name])


class PowerEmas:
    """The power-function EMAs of a recipe."""

    def __init__(self, network: nn.Module, stds: Iterable[float] = ()) -> None:
        self._emas = {ema_name(std): PowerEma(network, std) for std in stds}

    def update(self, before: int, after: int) -> None:
        """Include the weights after a step from `before` to `after` images."""
        for ema in self._emas.values():
            ema.update_after(before, after)

    def items(self) -> Iterator[tuple[str, PowerEma]]:
        """Yield each EMA with its name, such as `"ema-0.050"`."""
        yield from self._emas.items()

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of each EMA by its name, as parts of a checkpoint."""
        return {name: ema.tensors() for name, ema in self._emas.items()}

    def write_snapshots(self, run: Path, recipe: Recipe, num_images: int, world: World) -> None:
        """Write a snapshot of each EMA, one after the other; a collective operation.

        Raises:
            CheckpointError: the disk is full or cannot be written.
            HditError: on the other ranks, for the same reason.
        """
        for ema in self._emas.values():
            whole = full_tensors_on_cpu(ema.tensors(), world)
            world.on_main_rank(partial(_write, run, recipe, ema, num_images, whole))


def _write(run: Path, recipe: Recipe, ema: PowerEma, num_images: int, whole: Mapping[str, Tensor]) -> None:
    write_snapshot(run, recipe, Profile(ema.std, num_images), ema.snapshot(whole))
