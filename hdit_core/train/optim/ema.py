"""Averages whose memory is a share of the run, whatever its length: what any other length is made of afterwards.

Karras et al. (2024), section 3.1; see `hdit_core/checkpoint/profile.py`. They are tensors and no networks, each held in
parts where the parameters are, so that an update sends nothing.
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


class PowerEma:
    """The average of one length."""

    def __init__(self, network: nn.Module, std: float) -> None:
        """Begin with the weights of a network.

        Args:
            network: the trained one itself, before anything wraps it.
            std: the length, a share of the run.
        """
        self.std = std
        self._gamma = gamma_of(std)
        self._network = network
        self._averages = {name: weight.detach().clone() for name, weight in network.named_parameters()}

    @torch.no_grad()
    def update(self, before: int, after: int) -> None:
        """Take in the weights after a step that took the run from `before` to `after` images."""
        weights = [local_shard(weight) for weight in self._network.parameters()]
        averages = [local_shard(average) for average in self._averages.values()]
        torch._foreach_lerp_(averages, weights, 1.0 - decay(self._gamma, before, after))

    def tensors(self) -> dict[str, Tensor]:
        """Return what the network's state would be with these averages in it; fixed tensors are the network's own."""
        return dict(self._network.state_dict()) | self._averages

    def snapshot(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what is kept of `tensors` once they are whole and on the CPU: averages in float16."""
        return {name: rounded(tensor) if name in self._averages else tensor for name, tensor in whole.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` returned, whole on every rank."""
        for name, average in self._averages.items():
            copy_into_shards(average, tensors[name])


class PowerEmas:
    """The averages of all lengths that a recipe asks for."""

    def __init__(self, network: nn.Module, stds: Iterable[float] = ()) -> None:
        self._running = {ema_name(std): PowerEma(network, std) for std in stds}

    def update(self, before: int, after: int) -> None:
        """Take in the weights after a step that took the run from `before` to `after` images."""
        for profile in self._running.values():
            profile.update(before, after)

    def items(self) -> Iterator[tuple[str, PowerEma]]:
        """Yield each average with its name, such as `"ema-0.050"`."""
        yield from self._running.items()

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of each average by its name, as parts of a checkpoint."""
        return {name: profile.tensors() for name, profile in self._running.items()}

    def write_snapshots(self, run: Path, recipe: Recipe, num_images: int, world: World) -> None:
        """Write each average as it is after `num_images` images, one after the other; all ranks have to call it.

        Raises:
            CheckpointError: the disk is full, or cannot be written.
            HditError: on the other ranks, for the same reason.
        """
        for profile in self._running.values():
            whole = full_tensors_on_cpu(profile.tensors(), world)
            world.on_main_rank(partial(_write, run, recipe, profile, num_images, whole))


def _write(run: Path, recipe: Recipe, profile: PowerEma, num_images: int, whole: Mapping[str, Tensor]) -> None:
    write_snapshot(run, recipe, Profile(profile.std, num_images), profile.snapshot(whole))


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
        averages, weights = ([local_shard(tensor) for tensor in tensors] for tensors in (self._averages, self._weights))
        torch._foreach_lerp_(averages, weights, 1.0 - decay)
