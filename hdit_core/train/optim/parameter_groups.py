"""The optimizer's parameter groups, as in the reference implementation (k-diffusion, `image_transformer_v2`)."""

from typing import Any

from torch import nn

MAPPING_LR_FACTOR = 1 / 3


def is_mapping(name: str) -> bool:
    """Return whether a parameter belongs to the mapping network or to a modulation, with a lower learning rate."""
    return name.startswith("conditioning.mapping.") or name.endswith("norm.modulation.weight")


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies: to matrices, except those of the conditioning inputs."""
    return parameter.ndim == 2 and (is_mapping(name) or not name.startswith("conditioning."))


def parameter_groups(network: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Return the network's parameters in groups for an optimizer.

    Args:
        network: a `HourglassTransformer`, without wrappers that rename its parameters.
        lr: learning rate; the mapping network and its projections get one third of it.
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
