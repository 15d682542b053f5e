"""How large the gradient is, part by part of the network: where a run that diverges begins to."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Norms = Mapping[nn.Parameter, Tensor]

PLACES = {"conditioning": "mapping", "patch_in": "patches", "patch_out": "patches", "out_norm": "patches"}
"""The part that a parameter belongs to, by the first word of its name, where that is not one of the levels."""

OF_LEVELS = ("down", "merges", "splits", "up")  # and then the level's number; merges and splits go to the outer level


def part_of(name: str, levels: int) -> str:
    """Return the part of the network that a parameter belongs to: `mapping`, `patches`, `level 0` (outermost), ...

    Args:
        name: of a parameter of a bare `HourglassTransformer`.
        levels: that the network has.
    """
    first, *rest = name.split(".")
    if first == "middle":
        return f"level {levels - 1}"
    return f"level {rest[0]}" if first in OF_LEVELS else PLACES.get(first, first)


def norms_of(parameters: Iterable[nn.Parameter]) -> Norms:
    """Return the norm of each gradient that there is; of sharded ones numbers that are sharded too."""
    grads = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
    return dict(zip(grads, torch._foreach_norm(list(grads.values())), strict=True)) if grads else {}


def grad_norms(named: Iterable[tuple[str, nn.Parameter]], levels: int, norms: Norms | None = None) -> dict[str, Tensor]:
    """Return the norm of the gradient of each part of the network, over all ranks; their squares add up to the whole's.

    Sharded gradients are not put together for it: each rank's own norms are.

    Args:
        named: the parameters of a bare network with their names.
        levels: that it has.
        norms: of `norms_of` these, if they are known.
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
    """Scale the gradient down so that its norm is at most `largest`; return what the norm was, over all ranks.

    Args:
        parameters: whose gradient it is.
        largest: above 0.
        norms: of `norms_of` these.
    """
    norm = _norm([norms[parameter] for parameter in parameters if parameter in norms])
    if norm.device.type == "cpu" and largest / (norm + 1e-6) >= 1:
        return norm  # torch would multiply by 1, so as not to wait for a GPU's answer
    torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm
