"""Gradient norms by part of the network, and clipping."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Norms = Mapping[nn.Parameter, Tensor]

PARTS = {"conditioning": "mapping", "patch_in": "patches", "patch_out": "patches", "out_norm": "patches"}
"""The part of a parameter by the first word of its name, outside of the levels."""

OF_LEVELS = ("down", "merges", "splits", "up")  # followed by the level; merges and splits belong to the outer one


def part_of(name: str, levels: int) -> str:
    """Return the part of the network that a parameter belongs to: `mapping`, `patches`, `level 0` (outermost), ...

    Args:
        name: of a parameter of an unwrapped `HourglassTransformer`.
        levels: number of levels of the network.
    """
    first, *rest = name.split(".")
    if first == "middle":
        return f"level {levels - 1}"
    return f"level {rest[0]}" if first in OF_LEVELS else PARTS.get(first, first)


def norms_of(parameters: Iterable[nn.Parameter]) -> Norms:
    """Return the norm of each gradient; sharded gradients have sharded norms."""
    grads = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
    return dict(zip(grads, torch._foreach_norm(list(grads.values())), strict=True)) if grads else {}


def grad_norms(named: Iterable[tuple[str, nn.Parameter]], levels: int, norms: Norms | None = None) -> dict[str, Tensor]:
    """Return the gradient norm of each part of the network, over all ranks; the squares add up to the whole norm's.

    Sharded gradients are not gathered: only their norms are.

    Args:
        named: the parameters of an unwrapped network with their names.
        levels: number of levels of the network.
        norms: `norms_of` these parameters, if known.
    """
    named = list(named)
    norms = norms_of(parameter for _, parameter in named) if norms is None else norms
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in named:
        if parameter in norms:
            parts.setdefault(part_of(name, levels), []).append(norms[parameter])
    return {part: _norm(parts[part]) for part in sorted(parts)}


def _norm(norms: list[Tensor]) -> Tensor:
    norm = torch.linalg.vector_norm(torch.stack(norms))
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def clip(parameters: list[nn.Parameter], largest: float, norms: Norms) -> Tensor:
    """Scale the gradient so that its norm is at most `largest`; return the norm before, over all ranks.

    Args:
        parameters: with their gradients.
        largest: above 0.
        norms: `norms_of` these parameters.
    """
    norm = _norm([norms[parameter] for parameter in parameters if parameter in norms])
    if norm.device.type == "cpu" and largest / (norm + 1e-6) >= 1:
        return norm  # torch would multiply by 1, to avoid waiting for a GPU
    torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm
