"""One update of the weights: forward and backward over micro-batches, clip, optimizer, average."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from hdit_core.data.batch import Batch
from hdit_core.devices import autocast
from hdit_core.diffusion.density import stratified, training_sigmas
from hdit_core.diffusion.loss import denoising_loss
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.distributed import World
from hdit_core.errors import NumericalError
from hdit_core.randomness import stream
from hdit_core.recipe.run import Recipe
from hdit_core.train.compiled import compile_seconds
from hdit_core.train.ema import Ema, ema_decay
from hdit_core.train.optimizer import set_lr
from hdit_core.train.plan import Step, micro_batches
from hdit_core.train.schedule import lr_factor


@dataclass(frozen=True)
class StepResult:
    """What a step tells: the loss before it, and the gradient's norm before clipping; both over all ranks."""

    loss: float
    grad_norm: float
    compile_s: float = 0.0  # that torch.compile took of it


@dataclass(frozen=True)
class Learner:
    """Everything that an update reads or changes."""

    recipe: Recipe
    denoiser: Denoiser
    optimizer: torch.optim.Optimizer
    ema: Ema
    world: World
    device: torch.device
    dtype: torch.dtype  # of the products

    def pieces(self, step: Step) -> list[range]:
        """Return the image numbers of the micro-batches that this rank takes of a step."""
        return micro_batches(step, self.world, self.recipe.train.micro_batch_size)

    def update(self, step: Step, batches: Iterator[Batch]) -> StepResult:
        """Take one step.

        Args:
            step: which one.
            batches: of the run; as many are taken as the step has pieces, one after the other.

        Raises:
            NumericalError: the loss or the gradient is not finite on some rank; weights and averages are untouched.
        """
        compiled_before_s = compile_seconds()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(step, batches)
        grad_norm = self._clipped()
        loss = self.world.mean(loss)
        if not (torch.isfinite(loss) and torch.isfinite(grad_norm)):
            raise NumericalError(
                f"step {step.number}: the loss is {loss.item():.4g} and the gradient's norm {grad_norm.item():.4g}, on "
                f"images {step.num_images} to {step.num_images + step.batch_size - 1} of the run; the weights are as "
                "they were before it. Try a lower train.lr, or train.precision = 'float32'"
            )
        set_lr(self.optimizer, lr_factor(self.recipe.train, step.num_images))
        self.optimizer.step()
        self.ema.update(ema_decay(step.number, self.recipe.train.ema_power, self.recipe.train.ema_max))
        return StepResult(loss.item(), grad_norm.item(), compile_seconds() - compiled_before_s)

    def _backward(self, step: Step, batches: Iterator[Batch]) -> Tensor:
        """Add up the gradients of this rank's share, and return its mean loss."""
        share = step.batch_size // self.world.size
        total = torch.zeros((), device=self.device)
        pieces = self.pieces(step)
        for place, piece in enumerate(pieces):
            batch = next(batches)
            assert batch.numbers[0] == piece.start  # the loader walks the same plan
            self._seed_dropout(step, place)
            with self._synchronised(place == len(pieces) - 1):
                loss = self._losses(step, batch).sum() / share
                loss.backward()
            total += loss.detach()
        return total

    def _losses(self, step: Step, batch: Batch) -> Tensor:
        """Return the loss of each image; its noise level's stratum is its place in the global batch."""
        # sigmas are found on the CPU: the same bits for every device
        u = stratified(batch.numbers - step.num_images, step.batch_size, batch.uniform)
        sigma = training_sigmas(self.recipe.diffusion, self.recipe.model.image_size, u).to(self.device)
        batch = batch.to(self.device)
        with autocast(self.device, self.dtype):
            return denoising_loss(
                self.denoiser,
                batch.images,
                batch.noise,
                sigma,
                class_ids=batch.class_ids,
                augment_cond=batch.augment_cond,
            )

    def _clipped(self) -> Tensor:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return torch.nn.utils.clip_grad_norm_(parameters, self.recipe.train.grad_clip)

    def _seed_dropout(self, step: Step, place: int) -> None:
        """Make dropout a function of the step, the rank and the micro-batch, so that a resumed run drops the same."""
        if any(level.dropout for level in self.recipe.model.levels) or self.recipe.model.mapping_dropout:
            part = self.world.rank << 32 | place
            numbers = stream(self.recipe.train.seed, "dropout", step.number, part)
            torch.manual_seed(int(numbers.integers(2**63)))

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Let the ranks exchange gradients in the last backward only."""
        network = self.denoiser.network
        return nullcontext() if last or not isinstance(network, DistributedDataParallel) else network.no_sync()
