"""One training step: forward and backward over micro-batches, gradient clipping, optimizer, EMA."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.data.loader.batch import Batch
from hdit_core.devices import autocast, copy_to
from hdit_core.diffusion.loss import denoising_loss
from hdit_core.diffusion.noise_density import stratified, training_sigmas
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.distributed import World
from hdit_core.model.compile import compile_seconds
from hdit_core.randomness import stream
from hdit_core.recipe.run import Recipe
from hdit_core.train.optim.ema import Ema, PowerEmas, ema_decay
from hdit_core.train.optim.grad_norm import Norms, clip, grad_norms, norms_of
from hdit_core.train.optim.lr_schedule import lr_factor
from hdit_core.train.optim.optimizer import set_lr
from hdit_core.train.parallel.parallelize import gradient_accumulation, is_sharded
from hdit_core.train.step.batch_plan import PlannedStep, micro_batches
from hdit_core.train.step.result import GlobalBatchResult, StepResult, check_finite


@dataclass(frozen=True)
class Learner:
    """Everything that a training step reads or changes."""

    recipe: Recipe
    denoiser: Denoiser
    optimizer: torch.optim.Optimizer
    ema: Ema
    profiles: PowerEmas
    world: World
    dtype: torch.dtype  # of matmuls

    @property
    def is_sampling(self) -> bool:
        """Whether this rank takes part in sampling with the EMA weights: all ranks do if they are sharded."""
        return self.world.is_main or is_sharded(self.ema.network)

    def micro_batches(self, step: PlannedStep) -> list[range]:
        """Return the image numbers of this rank's micro-batches of a step."""
        return micro_batches(step, self.world, self.recipe.train.micro_batch_size)

    def train_step(self, step: PlannedStep, batches: Iterator[Batch]) -> StepResult:
        """Take one step.

        Args:
            step: which one.
            batches: of the run; one is taken for each micro-batch.

        Raises:
            NotFinite: the loss or the gradient is not finite on some rank; weights and EMAs are unchanged.
        """
        compiled_before_s = compile_seconds()
        result = self.forward_backward(step, batches)
        check_finite(step, result)
        set_lr(self.optimizer, lr_factor(self.recipe.train, step.num_images))
        self.optimizer.step()
        self.ema.update(ema_decay(step.number, self.recipe.train.ema_power, self.recipe.train.ema_max))
        self.profiles.update(step.num_images, step.num_images + step.batch_size)
        return replace(result, compile_s=compile_seconds() - compiled_before_s)

    def forward_backward(self, step: PlannedStep, batches: Iterator[Batch]) -> StepResult:
        """Return the result of a step, finite or not, and leave the clipped gradient to the optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        results = self._backward(step, batches)
        norms = norms_of(self.ema.source.parameters())
        by_part = grad_norms(self.ema.source.named_parameters(), len(self.recipe.model.levels), norms)
        return results.result(self.world, self._clipped(norms), by_part)

    def _backward(self, step: PlannedStep, batches: Iterator[Batch]) -> GlobalBatchResult:
        """Accumulate the gradients of this rank's images, and return their losses."""
        images_per_rank = step.batch_size // self.world.size
        results = GlobalBatchResult(step.batch_size, self.world.device)
        micro_batches = self.micro_batches(step)
        for index, numbers in enumerate(micro_batches):
            batch = next(batches)
            assert batch.numbers[0] == numbers.start  # the loader follows the same plan
            self._seed_dropout(step, index)
            sigma = self.sigmas(step, batch)
            with gradient_accumulation(self.denoiser.network, last=index == len(micro_batches) - 1):
                losses = self.losses(batch, sigma)
                (losses.sum() / images_per_rank).backward()
            results.put(numbers.start - step.first, losses, sigma)
        return results

    def sigmas(self, step: PlannedStep, batch: Batch) -> Float[Tensor, " B"]:
        """Return the noise level of each image; its stratum is its position in the global batch."""
        # computed on the CPU: bit-identical for every device
        u = stratified(batch.numbers - step.first, step.batch_size, batch.uniform)
        return copy_to(self.world.device, training_sigmas(self.recipe.diffusion, self.recipe.model.image_size, u))

    def losses(self, batch: Batch, sigma: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the loss of each image."""
        batch = batch.to(self.world.device)
        with autocast(self.world.device, self.dtype):
            return denoising_loss(
                self.denoiser,
                batch.images,
                batch.noise,
                sigma,
                class_ids=batch.class_ids,
                augment_cond=batch.augment_cond,
                mapping_cond=batch.mapping_cond,
                condition=batch.condition,
            )

    def grad_norm(self) -> float:
        """Return the norm of the current gradient."""
        by_part = grad_norms(self.ema.source.named_parameters(), len(self.recipe.model.levels))
        return float(torch.stack(list(by_part.values())).square().sum().sqrt())

    def _clipped(self, norms: Norms) -> Tensor:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return clip(parameters, self.recipe.train.grad_clip, norms)

    def _seed_dropout(self, step: PlannedStep, micro_batch: int) -> None:
        """Make dropout a function of the step, the rank and the micro-batch, so that a resumed run repeats it."""
        if any(level.dropout for level in self.recipe.model.levels) or self.recipe.model.mapping_dropout:
            part = self.world.rank << 32 | micro_batch
            numbers = stream(self.recipe.train.seed, "dropout", step.number, part)
            torch.manual_seed(int(numbers.integers(2**63)))
