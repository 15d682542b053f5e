"""The result of a step: per-image losses and noise levels of the global batch, and gradient norms."""

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
    """The same on all ranks; the weights are not updated if a number is not finite.

    Attributes:
        loss: mean of `losses`.
        grad_norm: of the whole gradient, before clipping.
        losses: of each image of the global batch, in the order of the run.
        sigmas: noise level of each image.
        grad_norms: by part of the network, see `optim/grad_norm.py`.
        compile_s: time of the step spent in torch.compile.
    """

    loss: float
    grad_norm: float
    losses: tuple[float, ...] = ()
    sigmas: tuple[float, ...] = ()
    grad_norms: Mapping[str, float] = field(default_factory=dict)
    compile_s: float = 0.0


class NotFinite(NumericalError):
    """The loss or the gradient of a step is not finite; weights and EMAs are those before the step."""

    def __init__(self, message: str, result: StepResult) -> None:
        super().__init__(message)
        self.result = result


def check_finite(step: PlannedStep, result: StepResult) -> None:
    """Check that all numbers of a step are finite, before it changes anything.

    Raises:
        NotFinite: on all ranks, since they have the same numbers.
    """
    if not all(map(math.isfinite, (result.grad_norm, *result.losses))):
        raise NotFinite(
            f"step {step.number}: the loss is {result.loss:.4g} and the gradient norm {result.grad_norm:.4g}, on "
            f"images {step.first} to {step.first + step.batch_size - 1} of the run; the weights are those "
            "before the step. Try a lower train.lr, or train.precision = 'float32'",
            result,
        )


class GlobalBatchResult:
    """Losses and noise levels of a global batch, collected from all ranks."""

    def __init__(self, batch_size: int, device: torch.device) -> None:
        self._table = torch.zeros(2, batch_size, device=device)

    def put(self, first: int, losses: Float[Tensor, " B"], sigmas: Float[Tensor, " B"]) -> None:
        """Set the values of some images; `first` is the position of the first one in the global batch."""
        self._table[:, first : first + len(losses)] = torch.stack([losses.detach(), sigmas]).to(self._table)

    def result(self, world: World, grad_norm: Tensor, grad_norms: Mapping[str, Tensor]) -> StepResult:
        """Exchange with the other ranks and return the numbers, with one copy from the device."""
        norms = torch.stack([grad_norm, *grad_norms.values()]).to(self._table)
        nan_if_not_finite = norms[:1] - norms[:1]  # 0, or NaN, which the sum carries to all ranks
        table = world.sum(torch.cat([self._table.flatten(), nan_if_not_finite]))
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
