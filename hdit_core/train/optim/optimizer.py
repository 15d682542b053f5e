"""The optimizer with the reference implementation's parameter groups, and its state as named tensors."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hdit_core.recipe.train import OptimizerName, TrainRecipe
from hdit_core.train.optim.muon import ChainedOptimizer, Muon, is_hidden, matrices_in
from hdit_core.train.optim.parameter_groups import parameter_groups
from hdit_core.train.parallel.sharded_tensors import shard_like

Groups = list[dict[str, Any]]


def _adamw(groups: Groups, network: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=recipe.betas, eps=recipe.eps, fused=True)


def _muon(groups: Groups, network: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """Muon for the hidden matrices, AdamW for the rest."""
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    hidden, others = _chosen(groups, is_hidden), _chosen(groups, lambda *pair: not is_hidden(*pair))
    for group in hidden:
        group["base_lr"] = recipe.muon_lr or recipe.lr
        group["stacked"] = [matrices_in(name, shapes) for name in group["names"]]
    return ChainedOptimizer(Muon(hidden), _adamw(others, network, recipe))


def _chosen(groups: Groups, wanted: Callable[[str, Tensor], bool]) -> Groups:
    """Return the groups with only the wanted parameters, without empty groups."""
    chosen = []
    for group in groups:
        members = {n: p for n, p in zip(group["names"], group["params"], strict=True) if wanted(n, p)}
        chosen.append(group | {"params": list(members.values()), "names": list(members)})
    return [group for group in chosen if group["params"]]


MAKERS: dict[OptimizerName, Callable[[Groups, nn.Module, TrainRecipe], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "muon": _muon,
}


def make_optimizer(network: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer over the parameter groups of `parameter_groups`."""
    groups = parameter_groups(network, recipe.lr, recipe.weight_decay)
    for group in groups:
        group["base_lr"] = group["lr"]
    return MAKERS[recipe.optimizer](groups, network, recipe)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to `factor` times its base rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named `<parameter>:<state>`; parameters without state have none."""
    return {
        f"{name}:{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` returned; a fused optimizer keeps all of it on the parameters' device."""
    parameters = dict(network.named_parameters())
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition(":")
        parameter = parameters[name]
        optimizer.state[parameter][key] = shard_like(tensor, parameter)
