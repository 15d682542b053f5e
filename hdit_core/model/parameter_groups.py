"""The optimizer's parameter groups, as the reference has them (hdit-facts 4.11)."""

from typing import Any

from torch import nn

MAPPING_LR_FACTOR = 1 / 3


def is_mapping(name: str) -> bool:
    """Tell whether a parameter belongs to the mapping network or carries its result into a norm: it learns slower."""
    return name.startswith("conditioning.mapping.") or name.endswith("norm.modulation.weight")


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Tell whether weight decay applies: to matrices, but not to those that bring the conditioning in."""
    return parameter.ndim == 2 and (is_mapping(name) or not name.startswith("conditioning."))


def parameter_groups(network: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Sort the network's parameters into groups for an optimizer.

    Args:
        network: a bare `HourglassTransformer`, wrapped by nothing that renames its parameters.
        lr: learning rate; the mapping network and its projections get a third of it.
        weight_decay: for matrices; scales, mixes, embeddings and conditioning inputs get none.

    Returns:
        Four groups (fewer where one would be empty), each with `params`, `lr`, `weight_decay` and `names`.
    """
    groups = []
    for mapping, decayed in ((False, True), (False, False), (True, True), (True, False)):
        members = {
            name: parameter
            for name, parameter in network.named_parameters()
            if (is_mapping(name), is_decayed(name, parameter)) == (mapping, decayed)
        }
        group_lr, group_decay = lr * MAPPING_LR_FACTOR if mapping else lr, weight_decay if decayed else 0.0
        groups.append(
            {"params": list(members.values()), "lr": group_lr, "weight_decay": group_decay, "names": list(members)}
        )
    return [group for group in groups if group["params"]]
