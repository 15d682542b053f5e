"""AdamW with the reference's parameter groups, and its state as named tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hdit_core.model.parameters import parameter_groups
from hdit_core.recipe.train import TrainRecipe
from hdit_core.train.gather import laid_out_like


def make_optimizer(network: nn.Module, recipe: TrainRecipe) -> torch.optim.AdamW:
    """Return AdamW over the network's parameter groups (hdit-facts 4.11: the mapping network learns at a third)."""
    groups = parameter_groups(network, recipe.lr, recipe.weight_decay)
    for group in groups:
        group["base_lr"] = group["lr"]
    return torch.optim.AdamW(groups, betas=recipe.betas, eps=recipe.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times its own."""
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
    """Put back what `optimizer_tensors` gave; a fused optimizer has all of it, counts too, beside the parameters."""
    parameters = dict(network.named_parameters())
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition(":")
        parameter = parameters[name]
        optimizer.state[parameter][key] = laid_out_like(tensor, parameter)
