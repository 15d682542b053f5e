"""How large the gradient is, part by part of the network: where a run that diverges begins to."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

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


def grad_norms(named: Iterable[tuple[str, nn.Parameter]], levels: int) -> dict[str, Tensor]:
    """Return the norm of the gradient of each part of the network, over all ranks; their squares add up to the whole's.

    Sharded gradients are not put together for it: each rank's own norms are.
    """
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in named:
        if parameter.grad is not None:
            parts.setdefault(part_of(name, levels), []).append(parameter.grad)
    return {part: _norm(parts[part]) for part in sorted(parts)}


def _norm(gradients: list[Tensor]) -> Tensor:
    norm = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(gradients))))
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def clip(parameters: list[nn.Parameter], largest: float) -> Tensor:
    """Scale the gradient down so that its norm is at most `largest`; return what the norm was, over all ranks."""
    norm = torch.nn.utils.get_total_norm(parameter.grad for parameter in parameters if parameter.grad is not None)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm
