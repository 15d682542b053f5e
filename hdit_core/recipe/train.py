"""`[train]`: optimization. Progress and schedules count images, so they survive a change of batch size."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from hdit_core.recipe.base_table import (
    Listed,
    NonNegativeFloat,
    NonNegativeInt,
    Path,
    PositiveFloat,
    PositiveInt,
    Probability,
    Problem,
    Seed,
    Table,
)

Precision = Literal["auto", "float32", "bfloat16"]
Parallel = Literal["auto", "ddp", "fsdp"]
OptimizerName = Literal["adamw", "muon"]
Schedule = Literal["constant", "inverse-sqrt", "cosine"]
Beta = Annotated[float, Field(ge=0, lt=1)]
EmaLength = Annotated[float, Field(ge=0.001, le=0.288)]  # a uniform average of the whole run has 1/sqrt(12) = 0.2887

DEFAULT_SNAPSHOTS = 64


class BatchGrowth(Table):
    """A larger batch size later in the run."""

    after_images: PositiveInt = Field(description="number of images after which the batch size changes")
    batch_size: PositiveInt = Field(description="images per step from then on")


class TrainRecipe(Table):
    """The training loop; defaults as in the paper (table 7)."""

    num_images: PositiveInt = Field(description="length of the run in images, counting repetitions")
    batch_size: PositiveInt = Field(256, description="global batch size: images per step over all ranks")
    batch_growth: Annotated[tuple[BatchGrowth, ...], Listed] = Field(
        (), description="larger batch sizes later in the run"
    )
    micro_batch_size: PositiveInt | None = Field(
        None,
        description="micro-batch size per rank; the rest by gradient accumulation. Default: the rank's whole batch",
    )
    seed: Seed = Field(0, description="seed of all random numbers of the run")
    init_from: Annotated[Path, Field(min_length=1)] | None = Field(
        None, description="run, checkpoint or file whose EMA weights initialize the network; it may lack outer levels"
    )
    optimizer: OptimizerName = Field("adamw", description="muon: Muon for the hidden matrices and AdamW for the rest")
    lr: PositiveFloat = Field(5e-4, description="peak learning rate")
    muon_lr: PositiveFloat | None = Field(
        None, description="peak learning rate of Muon's matrices, whose updates have AdamW's usual size. Default: lr"
    )
    betas: Annotated[tuple[Beta, Beta], Listed] = Field((0.9, 0.95), description="beta1 and beta2 of AdamW")
    eps: PositiveFloat = Field(1e-8, description="epsilon of AdamW")
    weight_decay: NonNegativeFloat = Field(1e-2, description="decoupled weight decay")
    schedule: Schedule = Field(
        "constant", description="learning-rate schedule between warm-up and cool-down; cosine decays to zero"
    )
    inverse_sqrt_images: PositiveInt | None = Field(
        None,
        description="inverse-sqrt: the learning rate is lr x sqrt(this / images) after this many images",
    )
    warmup: Probability = Field(0.0, description="fraction of the run with linear warm-up, at the start")
    warmup_images: NonNegativeInt = Field(0, description="the same as a number of images; give one of the two")
    cooldown: Probability = Field(0.0, description="fraction of the run with linear cool-down to zero, at the end")
    cooldown_images: NonNegativeInt = Field(0, description="the same as a number of images; give one of the two")
    grad_clip: PositiveFloat = Field(1.0, description="gradient norm above which gradients are clipped")
    class_dropout: Probability = Field(0.1, description="label dropout probability for classifier-free guidance")
    condition_dropout: Probability = Field(
        0.0,
        description="probability with which the condition image, and independently the vector, is replaced by zeros, "
        "for guidance",
    )
    channel_weights: Annotated[tuple[PositiveFloat, ...], Listed] = Field(
        (), description="relative loss weight of each image channel. Default: all equal"
    )
    ema_power: PositiveFloat = Field(0.75, description="EMA decay: 1 - (1 + steps)^-power, at most `ema_max`")
    ema_max: Probability = Field(0.9999, description="upper bound of the EMA decay")
    ema_profiles: Annotated[tuple[EmaLength, ...], Listed] = Field(
        (),
        description="relative lengths (sigma_rel) of power-function EMAs to track (EDM2), such as [0.05, 0.10]; "
        "`hdit ema` reconstructs other lengths from their snapshots",
    )
    ema_snapshot_every_images: NonNegativeInt | None = Field(
        None, description="images between snapshots of `ema_profiles`; 0: none. Default: 64 snapshots per run"
    )
    rollback: NonNegativeInt = Field(
        0, description="maximum number of automatic rollbacks on a loss spike; the batch of the spike is skipped"
    )
    precision: Precision = Field(
        "auto", description="precision of matrix products; auto: bfloat16 on GPUs that support it, otherwise float32"
    )
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="use torch.compile for each layer; auto: on GPUs, for runs that are long enough to pay for the "
        "compilation",
    )
    activation_checkpointing: bool | NonNegativeInt = Field(
        False, description="number of levels, outermost first, with activation checkpointing; true: all levels"
    )
    parallel: Parallel = Field(
        "auto",
        description="data parallelism: ddp replicates the weights, fsdp shards them; auto: fsdp if they do not fit",
    )
    shard_ranks: PositiveInt | None = Field(
        None,
        description="fsdp: shard within groups of this many ranks, replicate across them (HSDP). Default: all ranks",
    )
    rank_timeout_s: PositiveInt = Field(600, description="seconds that a rank waits for the others before the run ends")
    log_every_images: PositiveInt = Field(10_000, description="images between lines of the log")
    checkpoint_every_images: PositiveInt = Field(1_000_000, description="images between checkpoints")
    keep_checkpoints: Annotated[int, Field(ge=2)] = Field(3, description="number of newest valid checkpoints to keep")
    keep_every_images: NonNegativeInt = Field(
        0,
        description="images between checkpoints that are never removed; 0: none. A multiple of checkpoint_every_images",
    )
    sample_every_images: NonNegativeInt = Field(1_000_000, description="images between sample grids; 0: none")
    eval_every_images: NonNegativeInt = Field(
        0, description="images between evaluations, of which the best checkpoint is kept; 0: none"
    )
    eval_num_images: Annotated[int, Field(ge=2)] = Field(5_000, description="samples per evaluation")
    eval_metric: Literal["frechet", "kernel"] = Field(
        "frechet", description="metric that selects the best checkpoint: Frechet or kernel distance"
    )

    def batch_size_at(self, num_images: int) -> int:
        """Return the batch size of the step that begins after `num_images` images."""
        return next(
            (g.batch_size for g in reversed(self.batch_growth) if num_images >= g.after_images), self.batch_size
        )

    @property
    def warmup_length(self) -> int:
        """Images of the warm-up, whichever key gives it."""
        return self.warmup_images or round(self.warmup * self.num_images)

    @property
    def cooldown_length(self) -> int:
        """Images of the cool-down, whichever key gives it."""
        return self.cooldown_images or round(self.cooldown * self.num_images)

    @property
    def snapshot_every_images(self) -> int:
        """Images between two snapshots of `ema_profiles`; 0: none."""
        if not self.ema_profiles or self.ema_snapshot_every_images is not None:
            return self.ema_snapshot_every_images or 0
        return max(1, self.num_images // DEFAULT_SNAPSHOTS)

    def constraint_violations(self) -> Iterator[Problem]:
        """Yield the violated constraints between keys."""
        yield from self._profile_problems()
        yield from self._growth_problems()
        yield from self._schedule_problems()
        if self.muon_lr is not None and self.optimizer != "muon":
            yield "muon_lr", f"has no effect with optimizer = '{self.optimizer}', only with 'muon'; remove it"
        if self.parallel == "ddp" and self.shard_ranks is not None:
            yield "shard_ranks", "has no effect with parallel = 'ddp', only with 'fsdp'; remove it"
        if self.keep_every_images % self.checkpoint_every_images:
            yield (
                "keep_every_images",
                (
                    f"{self.keep_every_images} is not a multiple of checkpoint_every_images = "
                    f"{self.checkpoint_every_images}"
                ),
            )

    def _growth_problems(self) -> Iterator[Problem]:
        marks = [growth.after_images for growth in self.batch_growth]
        if any(later <= earlier for earlier, later in pairwise(marks)):
            yield "batch_growth", f"after_images must increase from entry to entry, found {marks}"
        start = 0
        for index, growth in enumerate(self.batch_growth):
            before = self.batch_growth[index - 1].batch_size if index else self.batch_size
            if (growth.after_images - start) % before:
                yield (
                    f"batch_growth[{index}].after_images",
                    (f"{growth.after_images} is not at the end of a step of {before} images"),
                )
            start = growth.after_images

    def _schedule_problems(self) -> Iterator[Problem]:
        point, wanted = self.inverse_sqrt_images, self.schedule == "inverse-sqrt"
        if wanted and point is None:
            example = max(1, self.num_images // 10)
            yield (
                "inverse_sqrt_images",
                f"missing; required by 'inverse-sqrt', for example {example}",
            )
        if point is not None and not wanted:
            yield (
                "inverse_sqrt_images",
                f"{point} has no effect with schedule = '{self.schedule}', only with 'inverse-sqrt'",
            )
        for name in ("warmup", "cooldown"):
            if getattr(self, name) and getattr(self, f"{name}_images"):
                yield name, f"and {name}_images give the same length; leave out one of them"
        if self.warmup_length + self.cooldown_length > self.num_images + (self.warmup > 0):  # fractions are rounded
            yield (
                "cooldown_images" if self.cooldown_images else "cooldown",
                f"warm-up ({self.warmup_length}) and cool-down ({self.cooldown_length}) together exceed "
                f"num_images = {self.num_images}; use the fractions warmup and cooldown, which follow num_images",
            )

    def _profile_problems(self) -> Iterator[Problem]:
        lengths = self.ema_profiles
        if any(round(length, 3) != length for length in lengths):
            yield "ema_profiles", f"{list(lengths)} has more than three decimals, which file names do not have"
        if len(set(lengths)) != len(lengths):
            yield "ema_profiles", f"{list(lengths)} lists a width twice"
        if self.ema_snapshot_every_images and not lengths:
            yield "ema_snapshot_every_images", "needs ema_profiles, for example [0.05, 0.10]"
