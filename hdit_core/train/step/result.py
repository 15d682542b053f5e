"""What a step tells: of each image of the global batch, and of the gradient, alike on all ranks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.distributed import World
from hdit_core.errors import NumericalError
from hdit_core.train.step.batch_plan import PlannedStep


@dataclass(frozen=True)
class StepResult:
    """Numbers from before the update, which is not done where one of them is not finite.

    Attributes:
        loss: mean of `losses`.
        grad_norm: the whole gradient's, before clipping.
        losses: of each image of the global batch, in the order of the run.
        sigmas: its noise level.
        grad_norms: by part of the network, see `gradient.grad_norms`.
        compile_s: that torch.compile took of the step.
    """

    loss: float
    grad_norm: float
    losses: tuple[float, ...] = ()
    sigmas: tuple[float, ...] = ()
    grad_norms: Mapping[str, float] = field(default_factory=dict)
    compile_s: float = 0.0


class NotFinite(NumericalError):
    """The loss or the gradient of a step is not finite; weights and averages are as they were before it."""

    def __init__(self, message: str, result: StepResult) -> None:
        super().__init__(message)
        self.result = result


def check_finite(step: PlannedStep, result: StepResult) -> None:
    """Refuse a step of which a number is not finite, before it reaches anything.

    Raises:
        NotFinite: on all ranks, since they hold the same numbers.
    """
    if not all(map(math.isfinite, (result.grad_norm, *result.losses))):
        raise NotFinite(
            f"step {step.number}: the loss is {result.loss:.4g} and the gradient's norm {result.grad_norm:.4g}, on "
            f"images {step.first} to {step.first + step.batch_size - 1} of the run; the weights are as "
            "they were before it. Try a lower train.lr, or train.precision = 'float32'",
            result,
        )


class GlobalBatchResult:
    """Losses and noise levels of a global batch, put together from what each rank has of it."""

    def __init__(self, batch_size: int, device: torch.device) -> None:
        self._table = torch.zeros(2, batch_size, device=device)

    def put(self, first: int, losses: Float[Tensor, " B"], sigmas: Float[Tensor, " B"]) -> None:
        """Fill in some images, the first of which has this place in the global batch."""
        self._table[:, first : first + len(losses)] = torch.stack([losses.detach(), sigmas]).to(self._table)

    def result(self, world: World, grad_norm: Tensor, grad_norms: Mapping[str, Tensor]) -> StepResult:
        """Exchange with the other ranks and say it in numbers, in one copy from the device."""
        norms = torch.stack([grad_norm, *grad_norms.values()]).to(self._table)
        unsound = norms[:1] - norms[:1]  # 0, or NaN for what is not finite, which then no rank overlooks
        table = world.sum(torch.cat([self._table.flatten(), unsound]))
        numbers = torch.cat([table[:-1], norms[:1] + table[-1:], norms[1:]]).tolist()
        size = self._table.shape[1]
        losses, sigmas, (whole, *parts) = numbers[:size], numbers[size : 2 * size], numbers[2 * size :]
        return StepResult(
            loss=sum(losses) / size,
            grad_norm=whole,
            losses=tuple(losses),
            sigmas=tuple(sigmas),
            grad_norms=dict(zip(grad_norms, parts, strict=True)),
        )
